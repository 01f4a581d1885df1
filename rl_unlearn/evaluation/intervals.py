"""Bootstrap intervals of a weighted mean over images, resampled within each prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.noise import generator


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval, in the value's own unit."""

    value: float
    low: float
    high: float

    def row(self) -> dict[str, float]:
        """As JSON holds it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resample(
    strata: Int[Tensor, " images"], resamples: int, seed: int
) -> Float[Tensor, "resamples images"]:
    """How much each image counts in each resample; 1 on average, and constant in sum within each
    stratum.

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
    """``sum(weights * values)`` with its percentile interval (2.5 to 97.5 %) over the resamples of
    :func:`resample`.

    ``weights`` sum to 1. Values that are all equal give an interval of no width; for rates see
    :mod:`rl_unlearn.evaluation.wilson`.
    """
    terms = weights.double() * values.double()
    value = terms.sum()
    spread = torch.quantile(counts @ terms, torch.tensor([0.025, 0.975], dtype=torch.float64))
    # The percentiles of a few, skewed resamples may miss the estimate by rounding; an interval
    # holds its value.
    low, high = torch.minimum(spread[0], value), torch.maximum(spread[1], value)
    # Sums of weights miss 1 by a rounding error: no rate is 100.00000000000001 percent.
    return Interval(*(round(end.item(), 9) for end in (value, low, high)))
