"""Several adapters as one: low-rank updates add up by putting their factors side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.errors import DataError

_A, _B = ".lora_A.", ".lora_B."


def combine(states: Sequence[dict[str, Tensor]], scales: Sequence[float]) -> AdapterState:
    """Returns one adapter whose update is the sum of ``scale * B @ A`` over the adapters; its rank
    is the sum of their ranks.

    Factors are ``(rank, inputs)`` and ``(outputs, rank)``; scales are plain factors, 1 the trained
    strength. A layer that only some adapters have is filled with zeros for the others, so all
    layers share one rank. Raises DataError if the adapters belong to different models, by the
    shapes of their layers.
    """
    ranks = [
        next(tensor.shape[0] for name, tensor in state.items() if _A in name) for state in states
    ]
    names = sorted({name for state in states for name in state if _A in name})
    combined: AdapterState = {}
    for down in names:
        up = down.replace(_A, _B)
        owner = next(state for state in states if down in state)
        inside, outside = owner[down].shape[1], owner[up].shape[0]
        factors = []
        for state, rank, scale in zip(states, ranks, scales, strict=True):
            a = state.get(down, torch.zeros(rank, inside))
            b = state.get(up, torch.zeros(outside, rank))
            if a.shape != (rank, inside) or b.shape != (outside, rank):
                raise DataError(
                    f"the adapters are of different models: {down} has shapes {a.shape[1]} and "
                    f"{inside}"
                )
            factors.append((a, scale * b))
        combined[down] = torch.cat([a for a, _ in factors])
        combined[up] = torch.cat([b for _, b in factors], dim=1)
    return combined
