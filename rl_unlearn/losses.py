"""Losses as pure functions.

Log-ratios and log-probs are joint over the D latent dimensions, in nats.
"""

from jaxtyping import Float
from torch import Tensor


def joint_log_ratio(
    log_probs: Float[Tensor, " batch"],
    behaviour_log_probs: Float[Tensor, " batch"],
    dimensions: int,
) -> Float[Tensor, " batch"]:
    """``log pi(a|s) - log mu(a|s)`` of one denoising step in nats, joint over its D dimensions."""
    return dimensions * (log_probs - behaviour_log_probs)


def importance_weight(
    log_ratio: Float[Tensor, " batch"], exponent: float, clip: float
) -> Float[Tensor, " batch"]:
    """``(pi/mu)^exponent``, a constant for the gradient, truncated where the joint log-ratio is
    above ``clip`` nats.

    An exponent of 1 is the exact weight of the step, whose variance explodes with the distance of
    the policies; 1/D is the D-th root, the usual "ratio" of diffusion policy gradients and
    practically 1; 0 leaves weights out.
    """
    return (exponent * log_ratio.detach().clamp(max=clip)).exp()


def likelihood_ratio_loss(
    log_prob: Float[Tensor, " batch"],
    log_ratio: Float[Tensor, " batch"],
    advantages: Float[Tensor, " batch"],
    exponent: float,
    clip: float,
) -> Float[Tensor, " batch"]:
    """``-w A log pi(a|s)``: for an exponent of 1 its gradient is that of PPO's surrogate (Schulman
    et al. 2017, eq. 7).

    Like PPO's it vanishes where the policy has already moved more than ``clip`` nats in the
    direction of the advantage; moved that far in the other direction, an action that is worse than
    expected weighs ``exp(clip)`` and not more.
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
    """``-w <grad_a V(a, t-1), mean>``: its gradient is SVG(0)'s, the noise of the stored action
    held fixed.
    """
    return -weight * (action_gradients * mean).flatten(1).sum(dim=1)


def control_variate(
    away: Float[Tensor, "batch *latent"], action_gradients: Float[Tensor, "batch *latent"]
) -> Float[Tensor, " batch"]:
    """``<g, a - mu_b>`` with ``g = grad_a V`` at the behaviour mean mu_b (Q-Prop, Gu et al. 2017,
    eq. 6).

    g and mu_b depend on the state alone; therefore ``E[c grad log pi(a|s)] = grad <g, mean>``, and
    what the control variate takes from the likelihood-ratio term a pathwise term gives back
    exactly.
    """
    return (action_gradients * away).flatten(1).sum(dim=1)
