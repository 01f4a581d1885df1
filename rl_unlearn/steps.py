"""The denoising steps that an update learns from: all whose action teaches anything, or a share."""

import torch
from jaxtyping import Int
from torch import Tensor

from rl_unlearn.noise import generator


def chosen_of(learned: int, share: float) -> int:
    """Returns how many of the learned steps of a trajectory an update learns from."""
    return max(1, round(share * learned))


def choose_steps(
    count: int, learned: Int[Tensor, " learned"], share: float, seed: int, version: int
) -> Int[Tensor, "count chosen"]:
    """Returns the steps of each of ``count`` trajectories that the update of policy ``version``
    learns from, in ascending order.

    A ``share`` below 1 is drawn for each trajectory by itself, uniformly and without replacement:
    the mean loss of the chosen steps has the mean loss of all of them as its expectation.
    ``learned``: see `Kernel.learned`.
    """
    chosen = chosen_of(len(learned), share)
    if chosen == len(learned):
        return learned.expand(count, -1)
    order = torch.rand(count, len(learned), generator=generator(seed, "steps", version))
    return learned[order.argsort(dim=1)[:, :chosen].sort(dim=1).values]
