"""The reward's own gradient by each action, through the rest of its trajectory: what direct reward
backpropagation follows (DRaFT, Clark et al. 2023, arXiv 2309.17400; AlignProp, Prabhudesai et al.
2023, arXiv 2310.03739).

With the noise of each step held fixed, a trajectory is a chain of the steps' means, and the
gradient of its reward by the weights is the sum over the steps of (gradient by the action) times
(gradient of the mean by the weights). This module returns the former, which holds for the policy
that drew the trajectory; an update supplies the latter.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy

Latents = Float[Tensor, "batch channels height width"]


def by_actions(
    policy: DiffusionPolicy,
    latents: Float[Tensor, "batch levels channels height width"],
    condition: Condition,
    reward: Callable[[Latents], Float[Tensor, " batch"]],
) -> Float[Tensor, "batch steps channels height width"]:
    """Returns the gradients of the rewards by the actions of all steps, in fp32, in units of the
    reward for one of a latent.

    ``latents``: all states of trajectories that the policy drew, from pure noise to the final ones.
    ``reward`` takes final latents in fp32 and must let gradients through. Stored actions are
    rounded to the type of the latents; rounding counts as the identity. One step's pass of the
    network is kept at a time.
    """
    slope = _slope(latents[:, -1], reward)
    slopes = [slope]
    for step in reversed(range(1, len(policy.kernel))):

        def worth(state: Latents, step: int = step) -> Float[Tensor, " batch"]:
            mean = policy.kernel.mean(policy.predict(state, step, condition), state, step)
            return (mean * slopes[-1]).flatten(1).sum(dim=1)

        slopes.append(_slope(latents[:, step], worth))
    return torch.stack(slopes[::-1], dim=1)


@torch.enable_grad()
def _slope(at: Latents, function: Callable[[Latents], Float[Tensor, " batch"]]) -> Latents:
    """Returns the gradient of a function of each row, at these rows."""
    rows = at.detach().float().requires_grad_()
    (slope,) = torch.autograd.grad(function(rows).sum(), rows)
    return slope
