"""How far off policy a batch is, and how much of its outcome a critic foresaw, as pure
functions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def effective_sample_size(log_weight: Float[Tensor, " batch"]) -> float:
    """Kish's effective share of samples, ``(sum w)^2 / (n sum w^2)``, in (0, 1]."""
    weights = (log_weight.double() - log_weight.max()).exp()
    return min(1.0, float(weights.sum() ** 2 / (len(weights) * weights.square().sum())))


def explained_variance(values: Float[Tensor, " batch"], returns: Float[Tensor, " batch"]) -> float:
    """``1 - Var(returns - values) / Var(returns)``; 0 where the returns do not vary."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0


def correlation_within(
    values: Float[Tensor, " batch"],
    returns: Float[Tensor, " batch"],
    prompts: Int[Tensor, " batch"],
) -> float:
    """Correlation of values and returns after each prompt's means were taken away; 0 where one of
    them does not vary.

    Which prompts are easy is known without looking: only what is left says that a critic sees the
    image.
    """
    _, group, sizes = prompts.unique(return_inverse=True, return_counts=True)
    sides = []
    for side in (values, returns):
        means = torch.zeros(len(sizes), dtype=side.dtype).index_add(0, group, side) / sizes
        sides.append(side - means[group])
    lengths = sides[0].norm() * sides[1].norm()
    return float((sides[0] * sides[1]).sum() / lengths) if lengths > 0 else 0.0
