"""Batches as rollouts and a critic might give them."""

import tiny
import torch
from torch import Tensor

from actors.rollout import RolloutActor
from learner.diagnostics import Metrics
from learner.learner import Learner
from rl_unlearn.config import Config, EstimatorConfig
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.messages import Request
from rl_unlearn.trajectory import Scored, Scores, Trajectory


def scored(
    trajectory: Trajectory,
    fill: float | None = None,
    estimator: EstimatorConfig | None = None,
    learned: Tensor | None = None,
) -> Scored:
    """Values and gradients as a critic might give them, if the estimator has one (`pathwise` by
    default); ``learned``: the steps that are learned from, by default the tiny pipeline's.
    """
    if learned is None:
        steps = trajectory.log_probs.shape[1]
        learned = read_shape_and_kernel(tiny.config(sampler={"steps": steps}))[1].learned
    row = (estimator or EstimatorConfig()).row
    generator = torch.Generator().manual_seed(0)
    batch, levels, *latent = trajectory.latents.shape
    values = torch.randn(batch, levels, generator=generator)
    gradients = torch.randn(batch, levels - 1, *latent, generator=generator)
    if fill is not None:
        gradients.fill_(fill)
    return Scored(
        trajectory,
        learned.expand(batch, -1),
        values if row.valued else None,
        gradients[:, learned] if row.gradients or row.backprop else None,
    )


def learn(learner: Learner, batch: Scored, version: int | None = None) -> Metrics:
    """An update with this batch."""
    scores = Scores(batch.steps, batch.values, batch.action_gradients)
    return learner.update(batch.trajectory, scores, version)


def collect(config: Config, learner: Learner) -> Trajectory:
    """A round, in chunks of rollout.batch."""
    actor, size, images = RolloutActor(config), config.rollout.batch, config.rollout.images
    prompts = tuple(i % 6 for i in range(images))
    chunks = [Request(1, prompts[o : o + size], o) for o in range(0, images, size)]
    return Trajectory.cat([actor.sample(chunk, learner.weights()) for chunk in chunks])


def first_ratios(config: Config) -> tuple[float, float]:
    learner = Learner(config)
    learned = learner.policy.kernel.learned
    metrics = learn(learner, scored(collect(config, learner), learned=learned))
    assert metrics["policy_lag_max"] == 0
    return metrics["first_ratio_min"], metrics["first_ratio_max"]


def trajectories(
    count: int = 5,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
    optional: tuple[str, ...] = (),
) -> Trajectory:
    generator = torch.Generator().manual_seed(first)
    latents = torch.randn(count, 4, 2, 3, 3, generator=generator).to(dtype)
    return Trajectory(
        ids=torch.arange(first, first + count) + 2**32,
        rounds=torch.full((count,), 1),
        policy_versions=torch.arange(count),
        prompts=torch.arange(count) % 3,
        latents=latents,
        log_probs=torch.randn(count, 3, generator=generator),
        outcomes=torch.randn(count, 6, generator=generator),
        rewards=torch.randn(count, generator=generator),
        evidence=torch.rand(count, generator=generator),
        means=torch.randn(count, 3, 2, 3, 3, generator=generator) if "means" in optional else None,
        predicted=torch.randn(count, 3, generator=generator) if "predicted" in optional else None,
    )


def round_rows(
    round: int, count: int = 4, version: int | None = None, offset: int = 0
) -> Trajectory:
    """Rows of a round whose latents name them: all equal to the id's last digits."""
    positions = torch.arange(offset, offset + count)
    return Trajectory(
        ids=positions + round * 2**32,
        rounds=torch.full((count,), round),
        policy_versions=torch.full((count,), round - 1 if version is None else version),
        prompts=positions % 2,
        latents=(positions + 100.0 * round).reshape(-1, 1, 1, 1, 1).expand(-1, 3, 2, 2, 2).clone(),
        log_probs=torch.zeros(count, 2),
        outcomes=torch.zeros(count, 3),
        rewards=positions.float(),
        evidence=torch.zeros(count),
    )
