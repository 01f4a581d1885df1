"""What an update reports: ratios, lag, clipping, effective sample size, and how good the critic was per noise level."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn.losses import effective_sample_size, explained_variance
from rl_unlearn.trajectory import Scored

Metrics = dict[str, float | int | list[float]]


def of_ratios(steps: list[Float[Tensor, " pairs"]], clip: float) -> Metrics:
    """Of the importance ratios (per latent dimension) of an update's optimizer steps, in order."""
    ratio = torch.cat(steps)
    return {
        "ratio_max": ratio.max().item(),
        "ratio_min": ratio.min().item(),
        "first_ratio_max": steps[0].max().item(),
        "first_ratio_min": steps[0].min().item(),
        "clip_fraction": ((ratio - 1).abs() > clip).float().mean().item(),
        "ess": effective_sample_size(ratio),
        # Schulman's estimator of KL(mu || pi) per latent dimension, (r - 1) - log r.
        "approx_kl": (ratio - 1 - ratio.log()).mean().item(),
    }


def of_batch(scored: Scored, target: Bool[Tensor, " batch"], version: int) -> Metrics:
    """Of the batch that policy ``version`` was updated with; ``target`` marks the prompts that ask for the concept."""
    trajectory = scored.trajectory
    lag = version - trajectory.policy_versions
    metrics: Metrics = {"policy_lag": lag.float().mean().item(), "policy_lag_max": int(lag.max())}
    if target.any():
        rewards = trajectory.rewards[target]
        metrics["reward"] = rewards.mean().item()
        metrics["forget_rate"] = 1 - trajectory.evidence[target].mean().item()
        # Over target prompts alone: between target and retained ones any critic looks good.
        levels = scored.values[target].unbind(dim=1)
        metrics["explained_variance"] = [explained_variance(values, rewards) for values in levels]
    if (~target).any():
        metrics["retain_reward"] = trajectory.rewards[~target].mean().item()
        metrics["retain_rate"] = trajectory.evidence[~target].mean().item()
    return metrics
