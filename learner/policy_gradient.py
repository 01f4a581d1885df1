"""The gradient of the policy: stored actions under the policy as it stands, what they are worth,
and the backward pass of the loss that follows.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.objective import Objective
from learner.ranks import Ranks
from rl_unlearn.advantages import Advantages
from rl_unlearn.config import Config
from rl_unlearn.families.condition import Condition
from rl_unlearn.losses import joint_log_ratio
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.trajectory import Scored, Trajectory

Pairs = Int[Tensor, "pairs 2"]
"""Trajectories and steps, by their numbers in a batch."""


class Actions(NamedTuple):
    """Stored actions under the policy as it stands."""

    log_probs: Float[Tensor, " pairs"]
    """Joint, in nats."""
    log_ratios: Float[Tensor, " pairs"]
    """Joint, to the policy that acted; detached."""
    means: Float[Tensor, "pairs channels height width"]
    """Means of the policy's actions."""


class PolicyGradient:
    """Holds the objective, and evaluates stored actions under the policy; each rank its share."""

    def __init__(
        self,
        config: Config,
        policy: DiffusionPolicy,
        conditions: Condition,
        target: Bool[Tensor, " prompts"],
        ranks: Ranks,
    ):
        """``target``: which prompts ask for the concept."""
        self._policy, self._conditions, self._ranks = policy, conditions, ranks
        self._target, self._seed = target, config.seed
        self._microbatch, self._minibatches = config.learner.microbatch, config.learner.minibatches
        self.objective = Objective(config, policy.dimensions)

    def pairs(self, trajectory: Trajectory) -> Pairs:
        """Returns all (trajectory, step) that are learned from."""
        return torch.cartesian_prod(torch.arange(len(trajectory)), self._policy.kernel.learned)

    def minibatches(self, trajectory: Trajectory, version: int) -> tuple[Pairs, ...]:
        """Returns them shuffled and in parts, one for each optimizer step of an update."""
        pairs = self.pairs(trajectory)
        draw = generator(self._seed, "minibatches", version)
        shuffled = pairs[torch.randperm(len(pairs), generator=draw)]
        return shuffled.tensor_split(min(self._minibatches, len(pairs)))

    def actions(self, trajectory: Trajectory, pairs: Pairs) -> Actions:
        """Evaluates these actions."""
        rows, steps = pairs.unbind(dim=1)
        device, dimensions = self._policy.device, self._policy.dimensions
        latents, action = (trajectory.latents[rows, at].to(device) for at in (steps, steps + 1))
        output = self._policy.predict(latents, steps, self._conditions[trajectory.prompts[rows]])
        _, log_probs, means = self._policy.kernel.step(output, latents, steps, action=action)
        behaviour = trajectory.log_probs[rows, steps].to(device)
        ratios = joint_log_ratio(log_probs.detach(), behaviour, dimensions)
        return Actions(dimensions * log_probs, ratios, means)

    @torch.no_grad()
    def log_ratios(
        self, trajectory: Trajectory, microbatch: int | None = None
    ) -> Float[Tensor, "batch steps"]:
        """Returns the joint log-ratios; 0 for the steps that are not learned from.

        Those have the wildest ratios, which would cut all traces before them. ``microbatch``:
        actions in one forward pass, if not ``learner.microbatch``.
        """
        pairs, ratios = self.pairs(trajectory), torch.zeros_like(trajectory.log_probs)
        share = pairs[self._ranks.share(len(pairs))]
        for part in share.split(microbatch or self._microbatch):
            if len(part):
                ratios[part.unbind(dim=1)] = self.actions(trajectory, part).log_ratios.cpu()
        self._ranks.sum(ratios)
        return ratios

    def advantages(self, scored: Scored) -> Advantages:
        """Returns what each step of a batch is worth."""
        target = self._target[scored.trajectory.prompts]
        return self.objective.advantages(scored, target, lambda: self.log_ratios(scored.trajectory))

    def of(self, scored: Scored) -> Float[Tensor, " parameters"]:
        """Returns the gradient of the loss of a whole batch as it is, without retention.

        Nothing is learned from it, but the estimator remembers the batch.
        """
        parameters, pairs = self._policy.parameters(), self.pairs(scored.trajectory)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.backward(scored, self.advantages(scored), pairs, torch.amp.GradScaler(enabled=False))
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        self._ranks.sum(gradient)
        return gradient

    def backward(
        self, scored: Scored, advantages: Advantages, pairs: Pairs, scaler: torch.amp.GradScaler
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Adds this rank's share of the gradient of the mean loss of these pairs.

        Returns their log-ratios and losses; 0 for those of other ranks.
        """
        log_ratios, losses = torch.zeros(2, len(pairs), device=self._policy.device).unbind()
        share = self._ranks.share(len(pairs))
        for part in torch.arange(share.start, share.stop).split(self._microbatch):
            if len(part):
                ratio, loss = self._loss(scored, advantages, pairs[part])
                scaler.scale(loss.sum() / len(pairs)).backward()
                log_ratios[part], losses[part] = ratio, loss.detach()
        return log_ratios, losses

    def _loss(
        self, scored: Scored, advantages: Advantages, pairs: Pairs
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """Returns detached joint log-ratios, and the loss of each pair."""
        rows, steps = pairs.unbind(dim=1)
        trajectory = scored.trajectory
        log_probs, log_ratios, means = self.actions(trajectory, pairs)
        away = None
        if trajectory.means is not None:
            stored = trajectory.latents[rows, steps + 1].float()
            away = (stored - trajectory.means[rows, steps]).to(means.device)
        worth = advantages.at(rows, steps, means.device)
        return log_ratios, self.objective.loss(worth, log_probs, log_ratios, means, away)
