"""Retention: the KL to the frozen model on retained prompts, held to a budget by a Lagrange
multiplier, and, for a fixed price, that of target prompts: to what it does under their anchor's,
or, where a trait has none, to what it does in the policy's own states.
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
class Pool:
    """States of the frozen model's trajectories and where its actions' means are to stay, row by
    row; on the CPU."""

    latents: Float[Tensor, "rows channels height width"]
    steps: Int[Tensor, " rows"]
    prompts: Int[Tensor, " rows"]
    """What the policy is asked for there."""
    reference: Float[Tensor, "rows channels height width"]
    """The frozen model's means."""

    def __len__(self) -> int:
        return len(self.steps)

    def some(self, count: int, draw: torch.Generator) -> "Pool":
        """Returns at most ``count`` rows, without repetition."""
        rows = torch.randperm(len(self), generator=draw)[:count]
        return Pool(self.latents[rows], self.steps[rows], self.prompts[rows], self.reference[rows])


@dataclass(frozen=True)
class Held(Pool):
    """The states that an optimizer step looks at: those of retained prompts, then the anchors'."""

    weights: Float[Tensor, " rows"]
    """What the KL of each counts in the loss."""
    retained: int
    """How many are those of retained prompts."""


class Retention:
    """Holds both pools and the multiplier.

    Without a pool (no retained prompt was drawn) it does nothing.
    """

    def __init__(
        self,
        config: Config,
        policy: DiffusionPolicy,
        conditions: Condition,
        floor: Floor,
    ):
        self._config, self._policy, self._conditions = config.learner, policy, conditions
        self._seed, self._floor = config.seed, floor
        updates = config.loop.rounds * config.learner.updates_per_round
        self._steps = updates * config.learner.minibatches
        self._pool: Pool | None = None
        self._anchored: Pool | None = None
        self.weight = config.learner.kl_weight

    @torch.no_grad()
    def keep(
        self, retained: Trajectory, instead: Trajectory, targets: Int[Tensor, " instead"]
    ) -> int:
        """Makes the pools from trajectories of the frozen policy; returns the number of states.

        ``instead``: those of images that may stand where ``targets``, prompts, ask for the concept.
        Of more than ``learner.pool`` states, or than all optimizer steps of the run will look at, a
        choice by name is kept. The reference means are computed here, once, with the adapter
        switched off.
        """
        asked = retained.prompts
        pairs = torch.cartesian_prod(torch.arange(len(retained)), self._policy.kernel.learned)
        self._pool = self._made(retained, pairs, asked, self._config.kl_states, "pool")
        pairs = torch.cartesian_prod(torch.arange(len(instead)), self._policy.kernel.learned)
        states = self._config.anchor_states
        self._anchored = self._made(instead, pairs, targets, states, "anchors")
        return sum(len(pool) for pool in (self._pool, self._anchored) if pool is not None)

    def draw(self, version: int, number: int, own: Trajectory | None = None) -> Held | None:
        """Returns the states that an optimizer step looks at; None without a pool.

        ``own``: trajectories whose states are held where no anchor's are.
        """
        if self._pool is None:
            return None
        config = self._config
        draw = generator(self._seed, "pool", version, number)
        kept = self._pool.some(config.kl_states, draw)
        other = self._other(own, generator(self._seed, "anchors", version, number))
        # What pulls the concept to its anchor pulls at all else, which is held as hard.
        price = 0.0 if other is None else config.anchor_weight / self._policy.dimensions
        weights = torch.full((len(kept),), (self.weight + price) / len(kept))
        pools = [kept]
        if other is not None:
            pools.append(other)
            weights = torch.cat([weights, torch.full((len(other),), price / len(other))])
        return Held(
            torch.cat([pool.latents for pool in pools]),
            torch.cat([pool.steps for pool in pools]),
            torch.cat([pool.prompts for pool in pools]),
            torch.cat([pool.reference for pool in pools]),
            weights,
            len(kept),
        )

    def _other(self, own: Trajectory | None, draw: torch.Generator) -> Pool | None:
        """Returns the states of target prompts that an optimizer step looks at."""
        count = self._config.anchor_states
        if self._anchored is not None:
            return self._anchored.some(count, draw)
        if own is None or not len(own):
            return None
        pairs = torch.cartesian_prod(torch.arange(len(own)), self._policy.kernel.learned)
        pairs = pairs[torch.randperm(len(pairs), generator=draw)[:count]]
        with torch.no_grad():
            return self._pooled(own, pairs, own.prompts)

    def above_floor(self, kl: Float[Tensor, " rows"], held: Held | None) -> float | None:
        """Returns the mean KL of retained states above the floor of rounding, in nats per step."""
        if held is None:
            return None
        count = held.retained
        floor = self._floor.at(held.steps[:count]).double().mean()
        return (kl[:count].double().mean() - floor).clamp(min=0).item()

    def apart(self, kl: Float[Tensor, " rows"], held: Held | None) -> float | None:
        """Returns the mean KL of the anchors' states in nats per step."""
        if held is None or held.retained == len(held):
            return None
        return kl[held.retained :].double().mean().item()

    def adjust(self, kl: float | None) -> None:
        """Moves the multiplier towards holding the budget, if anything is retained."""
        if kl is not None:
            budget, rate = self._config.kl_budget, self._config.kl_rate
            self.weight = next_kl_weight(self.weight, kl, budget, rate)

    def _made(
        self,
        drawn: Trajectory,
        pairs: Int[Tensor, "pairs 2"],
        asked: Int[Tensor, " images"],
        looked_at: int,
        name: str,
    ) -> Pool | None:
        """Makes a pool of states of these trajectories, whose reference is the frozen model under
        their own prompts; ``asked``: the prompts that the policy is asked for in their place.
        """
        room = min(self._config.pool, self._steps * looked_at)
        if len(pairs) > room:
            chosen = torch.randperm(len(pairs), generator=generator(self._seed, name))[:room]
            pairs = pairs[chosen.sort().values]
        return self._pooled(drawn, pairs, asked) if len(pairs) else None

    def _pooled(
        self, drawn: Trajectory, pairs: Int[Tensor, "pairs 2"], asked: Int[Tensor, " images"]
    ) -> Pool:
        """Returns these states of trajectories, with the means of the frozen model."""
        rows, steps = pairs.unbind(dim=1)
        latents, prompts = drawn.latents[rows, steps], drawn.prompts[rows]
        with self._policy.adapter_enabled(False):
            means = [
                self._mean(latents[part], steps[part], prompts[part]).cpu()
                for part in torch.arange(len(steps)).split(self._config.microbatch)
            ]
        return Pool(latents, steps, asked[rows], torch.cat(means))

    def _mean(
        self,
        latents: Float[Tensor, "rows channels height width"],
        steps: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows channels height width"]:
        latents = latents.to(self._policy.device)
        output = self._policy.predict(latents, steps, self._conditions[prompts])
        return self._policy.kernel.mean(output, latents, steps)
