"""Losses and diagnostics as pure functions. Log-probs are per latent dimension (see ddim.log_prob)."""

import torch
from jaxtyping import Float
from torch import Tensor


def importance_ratio(
    log_probs: Float[Tensor, " batch"], behaviour_log_probs: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """``(pi(a|s) / mu(a|s))^(1/D)``: the D-th root of the joint ratio, which alone stays finite in latent spaces."""
    return (log_probs - behaviour_log_probs).exp()


def clip_per_dimension(clip_range: float, dimensions: int) -> float:
    """A clip in nats of the joint log-ratio as one of the per-dimension ratio: divided by D."""
    return clip_range / dimensions


def clipped_policy_loss(
    ratio: Float[Tensor, " batch"], advantages: Float[Tensor, " batch"], clip: float
) -> Float[Tensor, " batch"]:
    """PPO's pessimistic surrogate (Schulman et al. 2017, eq. 7), negated: minimise it."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def pathwise_loss(
    ratio: Float[Tensor, " batch"],
    mean: Float[Tensor, "batch *latent"],
    action_gradients: Float[Tensor, "batch *latent"],
    clip: float,
) -> Float[Tensor, " batch"]:
    """``-w <grad_a V(a, t-1), mean>``: its gradient is SVG(0)'s, the noise of the stored action held fixed.

    ``w`` is the detached importance ratio truncated at 1 + clip, as the weight of a replayed action.
    """
    weight = ratio.detach().clamp(max=1 + clip)
    return -weight * (action_gradients * mean).flatten(1).sum(dim=1)


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


def joint_kl(ratio: Float[Tensor, " batch"], dimensions: int) -> float:
    """KL(behaviour || policy) of one denoising step in nats, joint over D dimensions, estimated on behaviour actions.

    ``-D mean(log ratio)``, unbiased, so it may fall a little below 0.
    """
    return -dimensions * float(ratio.log().mean())


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


def effective_sample_size(ratio: Float[Tensor, " batch"]) -> float:
    """Kish's effective share of samples, ``(sum w)^2 / (n sum w^2)``, in (0, 1]."""
    weights = ratio.double()
    return min(1.0, float(weights.sum() ** 2 / (len(weights) * weights.square().sum())))


def explained_variance(values: Float[Tensor, " batch"], returns: Float[Tensor, " batch"]) -> float:
    """``1 - Var(returns - values) / Var(returns)``; 0 where the returns do not vary."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0
