"""Retention: the KL to the frozen model on retained prompts, held to a budget by a Lagrange
multiplier.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.ranks import Ranks
from learner.rounding import Floor
from rl_unlearn.config import Config
from rl_unlearn.controllers import next_kl_weight
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.trajectory import Trajectory


@dataclass(frozen=True)
class _Pool:
    """States of retained trajectories with the frozen model's action means, row by row; on the
    CPU."""

    latents: Float[Tensor, "rows channels height width"]
    steps: Int[Tensor, " rows"]
    prompts: Int[Tensor, " rows"]
    reference: Float[Tensor, "rows channels height width"]


class Retention:
    """Holds the pool and the multiplier.

    Without a pool (no retained prompt was drawn) it does nothing.
    """

    def __init__(
        self, config: Config, policy: DiffusionPolicy, conditions: Condition, floor: Floor
    ):
        self._config, self._policy, self._conditions = config.learner, policy, conditions
        self._seed, self._floor = config.seed, floor
        self._pool: _Pool | None = None
        self.weight = config.learner.kl_weight

    @torch.no_grad()
    def keep(self, retained: Trajectory) -> int:
        """Makes the pool from trajectories of the frozen policy; returns its number of states.

        Of more than ``learner.pool`` states a choice by name is kept. The reference means are
        computed here, once, with the adapter switched off.
        """
        pairs = torch.cartesian_prod(torch.arange(len(retained)), self._policy.kernel.learned)
        if len(pairs) > self._config.pool:
            chosen = torch.randperm(len(pairs), generator=generator(self._seed, "pool"))[
                : self._config.pool
            ]
            pairs = pairs[chosen.sort().values]
        rows, steps = pairs.unbind(dim=1)
        latents, prompts = retained.latents[rows, steps], retained.prompts[rows]
        means = []
        with self._policy.adapter_enabled(False):
            for part in torch.arange(len(steps)).split(self._config.microbatch):
                means.append(self._mean(latents[part], steps[part], prompts[part]).cpu())
        self._pool = _Pool(latents, steps, prompts, torch.cat(means)) if len(steps) else None
        return len(steps)

    def backward(
        self, scaler: torch.amp.GradScaler, version: int, number: int, ranks: Ranks
    ) -> float | None:
        """Adds this rank's share of the gradient of the weighted KL on some states of the pool.

        Returns the KL over all of these states above the floor of rounding, in nats per step.
        """
        if self._pool is None:
            return None
        pool, count = self._pool, min(self._config.kl_states, len(self._pool.steps))
        chosen = torch.randperm(
            len(pool.steps), generator=generator(self._seed, "pool", version, number)
        )[:count]
        total = 0.0
        for part in chosen[ranks.share(count)].split(self._config.microbatch):
            if not len(part):
                continue
            mean = self._mean(pool.latents[part], pool.steps[part], pool.prompts[part])
            kl = (
                self._policy.kernel.kl(
                    mean, pool.reference[part].to(mean.device), pool.steps[part]
                ).sum()
                / count
            )
            scaler.scale(self.weight * kl).backward()
            total += kl.item()
        ranks.sum(whole := torch.tensor(total, dtype=torch.float64))
        return (whole - self._floor.at(pool.steps[chosen]).double().mean()).clamp(min=0).item()

    def adjust(self, kl: float | None) -> None:
        """Moves the multiplier towards holding the budget, if anything is retained."""
        if kl is not None:
            budget, rate = self._config.kl_budget, self._config.kl_rate
            self.weight = next_kl_weight(self.weight, kl, budget, rate)

    def _mean(
        self,
        latents: Float[Tensor, "rows channels height width"],
        steps: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows channels height width"]:
        latents = latents.to(self._policy.device)
        output = self._policy.predict(latents, steps, self._conditions[prompts])
        return self._policy.kernel.mean(output, latents, steps)
