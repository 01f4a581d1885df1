"""95 % intervals of weighted means over images, and of rates, which keep a width where all images
agree.
"""

from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.noise import generator

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval, in the value's own unit."""

    value: float
    low: float
    high: float

    def row(self) -> dict[str, float]:
        """Returns it as JSON holds it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resample(
    strata: Int[Tensor, " images"], resamples: int, seed: int
) -> Float[Tensor, "resamples images"]:
    """Returns how much each image counts in each resample: 1 on average, and constant in sum within
    each stratum.

    A stratum (the images of one prompt) of n images is resampled by n - 1 draws with replacement,
    each counting n / (n - 1): plain resampling by n draws makes intervals too narrow by the factor
    sqrt((n - 1) / n), which at two images a prompt is a third (Rao and Wu 1988, rescaling
    bootstrap). A single image has no spread to show and counts 1 in every resample. Deterministic
    in ``seed``.
    """
    counts = torch.ones(resamples, len(strata), dtype=torch.float64)
    random = generator(seed, "bootstrap")
    for stratum in strata.unique().tolist():
        members = (strata == stratum).nonzero().squeeze(1)
        size = len(members)
        if size > 1:
            drawn = torch.randint(size, (resamples, size - 1), generator=random)
            share = torch.full(drawn.shape, size / (size - 1), dtype=torch.float64)
            counts[:, members] = torch.zeros(resamples, size, dtype=torch.float64).scatter_add(
                1, drawn, share
            )
    return counts


def interval(
    values: Float[Tensor, " images"],
    weights: Float[Tensor, " images"],
    counts: Float[Tensor, "resamples images"],
) -> Interval:
    """Returns ``sum(weights * values)`` with its percentile interval (2.5 to 97.5 %) over the
    resamples of :func:`resample`.

    ``weights`` sum to 1. Values that are all equal give an interval of no width; for rates see
    :func:`rate`.
    """
    terms = weights.double() * values.double()
    value = terms.sum()
    spread = torch.quantile(counts @ terms, torch.tensor([0.025, 0.975], dtype=torch.float64))
    # The percentiles of a few, skewed resamples may miss the estimate by rounding; an interval
    # holds its value.
    low, high = torch.minimum(spread[0], value), torch.maximum(spread[1], value)
    # Sums of weights miss 1 by a rounding error: no rate is 100.00000000000001 percent.
    return Interval(*(round(end.item(), 9) for end in (value, low, high)))


def rate(
    holds: Bool[Tensor, " images"],
    weights: Float[Tensor, " images"],
    counts: Float[Tensor, "resamples images"],
) -> Interval:
    """Returns the weighted share of the images for which something holds, in percent; ``weights``
    sum to 1.

    The interval is that of :func:`interval`. Where its resamples show no spread, as when all images
    agree, it would claim certainty: there it is Wilson's for the effective number of images (Kish
    1965).
    """
    resampled = interval(100 * holds.double(), weights, counts)
    if resampled.low < resampled.high:
        return resampled
    return wilson(resampled.value / 100, 1 / weights.double().square().sum().item())


def wilson(share: float, images: float) -> Interval:
    """Returns the 95 % score interval (Wilson 1927) of a share, 0 to 1, of independent images; in
    percent."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    # Rounding must not move an end past the value: at a share of 0 or 1 they are equal.
    low, high = min(share, middle - half), max(share, middle + half)
    return Interval(*(round(100 * min(1.0, max(0.0, end)), 9) for end in (share, low, high)))
