"""What updates report: ratios, lag, clipping, effective sample size, and how good the critic was
per noise level.
"""

import hashlib
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn.statistics import correlation_within, effective_sample_size, explained_variance
from rl_unlearn.trajectory import Scored

Levels = list[float | None]
"""A number for each level; None where nothing is known of one."""
Metrics = dict[str, float | int | str | list[float] | list[int] | Levels]


@dataclass(frozen=True)
class Step:
    """What one optimizer step saw."""

    log_ratios: Float[Tensor, " pairs"]
    loss: float
    kl: float | None
    """Of retained states; None: nothing is retained."""
    anchor_kl: float | None
    """Of the anchors'; None: nothing is held there."""
    grad_norm: float
    finite: bool


def of_steps(steps: Sequence[Step]) -> Metrics:
    """Returns what the optimizer steps of an update say together."""
    count = len(steps)
    return {
        "skipped_steps": sum(not step.finite for step in steps),
        "loss": sum(step.loss for step in steps) / count,
        "grad_norm": sum(step.grad_norm for step in steps) / count,
        "kl": sum(math.nan if step.kl is None else step.kl for step in steps) / count,
        **_of_anchors([step.anchor_kl for step in steps if step.anchor_kl is not None]),
    }


def _of_anchors(kl: list[float]) -> Metrics:
    return {"anchor_kl": statistics.fmean(kl)} if kl else {}


def of_ratios(
    steps: list[Float[Tensor, " _"]], dimensions: int, exponent: float, clip: float
) -> Metrics:
    """Returns what the joint log-ratios of an update's optimizer steps say, in order.

    ``exponent`` and ``clip`` (nats) make weights of them; ``ess`` is of these, ``ess_exact`` of the
    bare ratios: how far off policy the batch is, whatever is made of it.
    """
    log_ratio = torch.cat(steps)
    ends = torch.tensor([0.05, 0.5, 0.95])
    return {
        # Per latent dimension, as they are usually given.
        "ratio_max": (log_ratio.max() / dimensions).exp().item(),
        "ratio_min": (log_ratio.min() / dimensions).exp().item(),
        "first_ratio_max": (steps[0].max() / dimensions).exp().item(),
        "first_ratio_min": (steps[0].min() / dimensions).exp().item(),
        "log_ratio_quantiles": torch.quantile(log_ratio, ends).tolist(),
        "clip_fraction": (log_ratio.abs() > clip).float().mean().item(),
        "ess": effective_sample_size(exponent * log_ratio.clamp(max=clip)),
        "ess_exact": effective_sample_size(log_ratio),
    }


def of_batch(scored: Scored, target: Bool[Tensor, " batch"], version: int) -> Metrics:
    """Returns what the batch says that policy ``version`` was updated with; ``target`` marks the
    prompts that ask for the concept.
    """
    trajectory = scored.trajectory
    lag = version - trajectory.policy_versions
    metrics: Metrics = {
        "trajectories": len(trajectory),
        "batch": hashlib.sha256(trajectory.ids.numpy().tobytes()).hexdigest(),
        "policy_lag": lag.float().mean().item(),
        "policy_lag_max": int(lag.max()),
        "policy_lag_counts": torch.bincount(lag).tolist(),
    }
    if target.any():
        rewards = trajectory.rewards[target]
        metrics["reward"] = rewards.mean().item()
        metrics["forget_rate"] = 1 - trajectory.evidence[target].mean().item()
        if scored.values is not None:
            # Over target prompts alone: between target and retained ones any critic looks good.
            prompts = trajectory.prompts[target]
            explained: Levels = []
            correlation: Levels = []
            for values in scored.values[target].unbind(dim=1):
                known = values.isfinite()  # the critic may have been asked for some states alone
                rated = bool(known.any())
                of = values[known], rewards[known]
                explained.append(explained_variance(*of) if rated else None)
                correlation.append(correlation_within(*of, prompts[known]) if rated else None)
            metrics["explained_variance"], metrics["critic_correlation"] = explained, correlation
    if (~target).any():
        metrics["retain_reward"] = trajectory.rewards[~target].mean().item()
        metrics["retain_rate"] = trajectory.evidence[~target].mean().item()
    return metrics


def of_round(updates: Sequence[Metrics]) -> Metrics:
    """Sums up all updates of a round: counts are added up, extremes kept, the state is that after
    the last one, and what is left is averaged over the updates that have it.
    """
    metrics: Metrics = {}
    for key in dict.fromkeys(key for update in updates for key in update):
        values: list[Any] = [update[key] for update in updates if key in update]
        if key in ("lr", "step_kl", "policy_version", "kl_weight", "kl_floor"):
            metrics[key] = values[-1]
        elif key == "skipped_steps":
            metrics[key] = sum(values)
        elif key == "policy_lag_counts":
            metrics[key] = [sum(place) for place in itertools.zip_longest(*values, fillvalue=0)]
        elif key.endswith("_max"):
            metrics[key] = max(values)
        elif key.endswith("_min"):
            metrics[key] = min(values)
        elif isinstance(values[0], list):
            known = [[v for v in place if v is not None] for place in zip(*values, strict=True)]
            metrics[key] = [statistics.fmean(place) if place else None for place in known]
        else:
            metrics[key] = statistics.fmean(values)
    return metrics
