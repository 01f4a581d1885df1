"""Retention: the KL to the frozen model on retained prompts, held to a budget by a Lagrange
multiplier.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.rounding import Floor
from rl_unlearn.config import Config
from rl_unlearn.controllers import next_kl_weight
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.trajectory import Trajectory


@dataclass(frozen=True)
class Retained:
    """States of retained trajectories with the frozen model's action means, row by row; on the
    CPU."""

    latents: Float[Tensor, "rows channels height width"]
    steps: Int[Tensor, " rows"]
    prompts: Int[Tensor, " rows"]
    reference: Float[Tensor, "rows channels height width"]
    weight: float
    """What their mean KL counts in the loss."""

    def __len__(self) -> int:
        return len(self.steps)


class Retention:
    """Holds the pool and the multiplier.

    Without a pool (no retained prompt was drawn) it does nothing.
    """

    def __init__(
        self, config: Config, policy: DiffusionPolicy, conditions: Condition, floor: Floor
    ):
        self._config, self._policy, self._conditions = config.learner, policy, conditions
        self._seed, self._floor = config.seed, floor
        steps = config.loop.rounds * config.learner.updates_per_round * config.learner.minibatches
        self._looked_at = steps * config.learner.kl_states
        self._pool: Retained | None = None
        self.weight = config.learner.kl_weight

    @torch.no_grad()
    def keep(self, retained: Trajectory) -> int:
        """Makes the pool from trajectories of the frozen policy; returns its number of states.

        Of more than ``learner.pool`` states, or than all optimizer steps of the run will look at, a
        choice by name is kept. The reference means are computed here, once, with the adapter
        switched off.
        """
        pairs = torch.cartesian_prod(torch.arange(len(retained)), self._policy.kernel.learned)
        room = min(self._config.pool, self._looked_at)
        if len(pairs) > room:
            chosen = torch.randperm(len(pairs), generator=generator(self._seed, "pool"))[:room]
            pairs = pairs[chosen.sort().values]
        rows, steps = pairs.unbind(dim=1)
        latents, prompts = retained.latents[rows, steps], retained.prompts[rows]
        means = []
        with self._policy.adapter_enabled(False):
            for part in torch.arange(len(steps)).split(self._config.microbatch):
                means.append(self._mean(latents[part], steps[part], prompts[part]).cpu())
        self._pool = None
        if len(steps):
            self._pool = Retained(latents, steps, prompts, torch.cat(means), 0.0)
        return len(steps)

    def draw(self, version: int, number: int) -> Retained | None:
        """Returns the states of the pool that an optimizer step looks at; None without a pool."""
        if self._pool is None:
            return None
        pool, count = self._pool, min(self._config.kl_states, len(self._pool))
        draw = generator(self._seed, "pool", version, number)
        rows = torch.randperm(len(pool), generator=draw)[:count]
        return Retained(
            pool.latents[rows],
            pool.steps[rows],
            pool.prompts[rows],
            pool.reference[rows],
            self.weight,
        )

    def above_floor(self, kl: Float[Tensor, " rows"], retained: Retained | None) -> float | None:
        """Returns the mean KL of retained states above the floor of rounding, in nats per step."""
        if retained is None:
            return None
        floor = self._floor.at(retained.steps).double().mean()
        return (kl.double().mean() - floor).clamp(min=0).item()

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
