"""Rates: shares of images in percent, with an interval that keeps a width where all images
agree."""

from statistics import NormalDist

from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn.evaluation.intervals import Interval, interval

LEVEL = 0.95


def rate(
    holds: Bool[Tensor, " images"],
    weights: Float[Tensor, " images"],
    counts: Float[Tensor, "resamples images"],
) -> Interval:
    """Weighted share of the images for which something holds, in percent; ``weights`` sum to 1.

    The interval is that of :func:`rl_unlearn.evaluation.intervals.interval`. Where its resamples
    show no spread, as when all images agree, it would claim certainty: there it is Wilson's for the
    effective number of images (Kish 1965).
    """
    found = interval(100 * holds.double(), weights, counts)
    if found.low < found.high:
        return found
    return wilson(found.value / 100, 1 / weights.double().square().sum().item())


def wilson(share: float, images: float) -> Interval:
    """The 95 % score interval (Wilson 1927) of a share, 0 to 1, of independent images; in
    percent."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    # Rounding must not move an end past the value: at a share of 0 or 1 they are equal.
    low, high = min(share, middle - half), max(share, middle + half)
    return Interval(*(round(100 * min(1.0, max(0.0, end)), 9) for end in (share, low, high)))
