"""What is steered from update to update, as pure functions: the multiplier of the KL budget, and
the step size.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def next_kl_weight(weight: float, kl: float, budget: float, rate: float) -> float:
    """Returns one multiplicative ascent step of the Lagrange multiplier that holds ``kl <=
    budget``.

    The relative violation is clipped to [-1, 1], so that one outlier cannot throw the multiplier
    away. A rate of 0 keeps the weight as it is, 0 included.
    """
    if rate == 0:
        return weight
    violation = min(max(kl / budget - 1, -1.0), 1.0)
    return min(max(weight * float(torch.tensor(rate * violation).exp()), 1e-6), 1e6)


def update_kl(log_ratio: Float[Tensor, " batch"], updates: Float[Tensor, " batch"]) -> float | None:
    """KL of one denoising step in nats that a single update brings about, from joint log-ratios of
    behaviour actions.

    Since each action was drawn the policy has gone ``updates`` updates, or parts of one. A
    log-ratio's negative mean estimates the KL to the policy that drew it without bias, so it may
    fall a little below 0; as long as the policy goes straight on, that KL grows with the square of
    the way. Age alone does not count: a replayed action is far from the policy however small its
    steps are. None where no way lies behind any action.
    """
    gone = updates > 0
    return -float((log_ratio[gone] / updates[gone].square()).mean()) if gone.any() else None


def next_lr(lr: float, kl: float, target: float, lowest: float, highest: float) -> float:
    """Step size that keeps the policy's movement near ``target`` nats: 1.5 times smaller when it
    moved further, a tenth larger when it moved less than a quarter of it (after Rudin et al. 2021,
    arXiv 2109.11978, app. A.4).

    It falls faster than it rises: once the reward is saturated, growing steps only amplify the
    critic's noise.
    """
    if kl < target / 4:
        lr *= 1.1
    elif not kl <= target:  # a KL that is not a number is too far, too
        lr /= 1.5
    return min(max(lr, lowest), highest)


def annealed(progress: float, constant: float, floor: float) -> float:
    """Factor of the largest step size: 1 for the share ``constant`` of the run, then linearly down
    to ``floor``.

    ``progress`` is the share of the run that is done, in [0, 1]. While the concept goes, steps
    should be as large as the critic allows; afterwards they only carry the policy around in the
    noise of the gradient.
    """
    left = (1 - progress) / (1 - constant) if constant < 1 else 1.0
    return max(floor, min(1.0, left))
