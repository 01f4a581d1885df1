"""Losses and diagnostics as pure functions. Log-ratios and log-probs are joint over the D latent dimensions, nats."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def joint_log_ratio(
    log_probs: Float[Tensor, " batch"], behaviour_log_probs: Float[Tensor, " batch"], dimensions: int
) -> Float[Tensor, " batch"]:
    """``log pi(a|s) - log mu(a|s)`` of one denoising step in nats, joint over its D dimensions."""
    return dimensions * (log_probs - behaviour_log_probs)


def importance_weight(log_ratio: Float[Tensor, " batch"], exponent: float, clip: float) -> Float[Tensor, " batch"]:
    """``(pi/mu)^exponent``, a constant for the gradient, truncated where the joint log-ratio is above ``clip`` nats.

    An exponent of 1 is the exact weight of the step, whose variance explodes with the distance of the policies; 1/D is
    the D-th root, the usual "ratio" of diffusion policy gradients and practically 1; 0 leaves weights out.
    """
    return (exponent * log_ratio.detach().clamp(max=clip)).exp()


def likelihood_ratio_loss(
    log_prob: Float[Tensor, " batch"],
    log_ratio: Float[Tensor, " batch"],
    advantages: Float[Tensor, " batch"],
    exponent: float,
    clip: float,
) -> Float[Tensor, " batch"]:
    """``-w A log pi(a|s)``: for an exponent of 1 its gradient is that of PPO's surrogate (Schulman et al. 2017, eq. 7).

    Like PPO's it vanishes where the policy has already moved more than ``clip`` nats in the direction of the advantage;
    moved that far in the other direction, an action that is worse than expected weighs ``exp(clip)`` and not more.
    """
    ratio = log_ratio.detach()
    moved = ((advantages > 0) & (ratio > clip)) | ((advantages < 0) & (ratio < -clip))
    weight = importance_weight(log_ratio, exponent, clip) * ~moved
    return -weight * advantages * log_prob


def pathwise_loss(
    mean: Float[Tensor, "batch *latent"],
    action_gradients: Float[Tensor, "batch *latent"],
    weight: Float[Tensor, " batch"] | float = 1.0,
) -> Float[Tensor, " batch"]:
    """``-w <grad_a V(a, t-1), mean>``: its gradient is SVG(0)'s, the noise of the stored action held fixed."""
    return -weight * (action_gradients * mean).flatten(1).sum(dim=1)


def control_variate(
    away: Float[Tensor, "batch *latent"], action_gradients: Float[Tensor, "batch *latent"]
) -> Float[Tensor, " batch"]:
    """``<g, a - mu_b>`` with ``g = grad_a V`` at the behaviour mean mu_b (Q-Prop, Gu et al. 2017, eq. 6).

    g and mu_b depend on the state alone; therefore ``E[c grad log pi(a|s)] = grad <g, mean>``, and what
    the control variate takes from the likelihood-ratio term a pathwise term gives back exactly.
    """
    return (action_gradients * away).flatten(1).sum(dim=1)


def gaussian_kl(
    mean: Float[Tensor, "batch *latent"], reference: Float[Tensor, "batch *latent"], std: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """KL of two kernels of equal std, ``|mean - reference|^2 / (2 std^2)``, joint over the latents, in nats."""
    return (mean - reference).square().flatten(1).sum(dim=1) / (2 * std**2)


def next_kl_weight(weight: float, kl: float, budget: float, rate: float) -> float:
    """One multiplicative ascent step of the Lagrange multiplier that holds ``kl <= budget``.

    The relative violation is clipped to [-1, 1], so that one outlier cannot throw the multiplier away. A rate of 0
    keeps the weight as it is, 0 included.
    """
    if rate == 0:
        return weight
    violation = min(max(kl / budget - 1, -1.0), 1.0)
    return min(max(weight * float(torch.tensor(rate * violation).exp()), 1e-6), 1e6)


def update_kl(log_ratio: Float[Tensor, " batch"], updates: Float[Tensor, " batch"]) -> float | None:
    """KL of one denoising step in nats that a single update brings about, from joint log-ratios of behaviour actions.

    Since each action was drawn the policy has gone ``updates`` updates, or parts of one. A log-ratio's negative mean
    estimates the KL to the policy that drew it without bias, so it may fall a little below 0; as long as the policy
    goes straight on, that KL grows with the square of the way. Age alone does not count: a replayed action is far from
    the policy however small its steps are. None where no way lies behind any action.
    """
    gone = updates > 0
    return -float((log_ratio[gone] / updates[gone].square()).mean()) if gone.any() else None


def next_lr(lr: float, kl: float, target: float, lowest: float, highest: float) -> float:
    """Step size that keeps the policy's movement near ``target`` nats: 1.5 times smaller when it moved further, a tenth
    larger when it moved less than a quarter of it (after Rudin et al. 2021, arXiv 2109.11978, app. A.4).

    It falls faster than it rises: once the reward is saturated, growing steps only amplify the critic's noise.
    """
    if kl < target / 4:
        lr *= 1.1
    elif not kl <= target:  # a KL that is not a number is too far, too
        lr /= 1.5
    return min(max(lr, lowest), highest)


def annealed(progress: float, constant: float, floor: float) -> float:
    """Factor of the largest step size: 1 for the share ``constant`` of the run, then linearly down to ``floor``.

    ``progress`` is the share of the run that is done, in [0, 1]. While the concept goes, steps should be as large as
    the critic allows; afterwards they only carry the policy around in the noise of the gradient.
    """
    left = (1 - progress) / (1 - constant) if constant < 1 else 1.0
    return max(floor, min(1.0, left))


def effective_sample_size(log_weight: Float[Tensor, " batch"]) -> float:
    """Kish's effective share of samples, ``(sum w)^2 / (n sum w^2)``, in (0, 1]."""
    weights = (log_weight.double() - log_weight.max()).exp()
    return min(1.0, float(weights.sum() ** 2 / (len(weights) * weights.square().sum())))


def explained_variance(values: Float[Tensor, " batch"], returns: Float[Tensor, " batch"]) -> float:
    """``1 - Var(returns - values) / Var(returns)``; 0 where the returns do not vary."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0


def correlation_within(
    values: Float[Tensor, " batch"], returns: Float[Tensor, " batch"], prompts: Int[Tensor, " batch"]
) -> float:
    """Correlation of values and returns after each prompt's means were taken away; 0 where one of them does not vary.

    Which prompts are easy is known without looking: only what is left says that a critic sees the image.
    """
    _, group, sizes = prompts.unique(return_inverse=True, return_counts=True)
    sides = []
    for side in (values, returns):
        means = torch.zeros(len(sizes), dtype=side.dtype).index_add(0, group, side) / sizes
        sides.append(side - means[group])
    lengths = sides[0].norm() * sides[1].norm()
    return float((sides[0] * sides[1]).sum() / lengths) if lengths > 0 else 0.0
