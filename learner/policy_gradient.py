"""The gradient of an optimizer step: stored actions under the policy as it stands and what they are
worth, retained states and how far they have drifted, through the network together.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.objective import Objective
from learner.ranks import Ranks
from learner.retention import Held
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


@dataclass(frozen=True)
class Seen:
    """What a backward pass saw; 0 for what other ranks look at."""

    log_ratios: Float[Tensor, " pairs"]
    losses: Float[Tensor, " pairs"]
    kl: Float[Tensor, " held"]
    """KL of each held state to its reference, in nats."""


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

    def minibatches(self, scored: Scored, version: int) -> tuple[Pairs, ...]:
        """Returns all pairs that are learned from, shuffled and in parts, one for each optimizer
        step of an update.
        """
        pairs = _pairs(scored.steps)
        draw = generator(self._seed, "minibatches", version)
        shuffled = pairs[torch.randperm(len(pairs), generator=draw)]
        return shuffled.tensor_split(min(self._minibatches, len(pairs)))

    @torch.no_grad()
    def log_ratios(
        self, trajectory: Trajectory, microbatch: int | None = None
    ) -> Float[Tensor, "batch steps"]:
        """Returns the joint log-ratios; 0 for the steps that are too quiet to learn from.

        Those have the wildest ratios, which would cut all traces before them. ``microbatch``:
        actions in one forward pass, if not ``learner.microbatch``.
        """
        pairs = _pairs(self._policy.kernel.learned.expand(len(trajectory), -1))
        ratios = torch.zeros_like(trajectory.log_probs)
        share = self._ranks.share(len(pairs))
        for part in pairs[share].split(microbatch or self._microbatch):
            if len(part):
                rows, steps = part.unbind(dim=1)
                states = trajectory.latents[rows, steps].to(self._policy.device)
                output = self._answer(states, steps, trajectory.prompts[rows])
                actions = self._actions(trajectory, part, states, output)
                ratios[rows, steps] = actions.log_ratios.cpu()
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
        parameters = self._policy.parameters()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        unscaled = torch.amp.GradScaler(enabled=False)
        self.backward(scored, self.advantages(scored), _pairs(scored.steps), None, unscaled)
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        self._ranks.sum(gradient)
        return gradient

    def backward(
        self,
        scored: Scored,
        advantages: Advantages,
        pairs: Pairs,
        held: Held | None,
        scaler: torch.amp.GradScaler,
    ) -> Seen:
        """Adds this rank's share of the gradient of the mean loss of these pairs, and of the
        weighted KL of what is held.

        Both share the passes of the network, one that is half empty costs nearly as much as a full
        one. All but the last have ``learner.microbatch`` rows, and actions come first: a network
        may round otherwise for another number of rows, and ratios before the first update would not
        be 1.
        """
        count, others = len(pairs), len(held) if held is not None else 0
        device = self._policy.device
        seen = Seen(*(torch.zeros(size, device=device) for size in (count, count, others)))
        share = self._ranks.share(count + others)
        for part in torch.arange(share.start, share.stop).split(self._microbatch):
            acted, kept = part[part < count], part[part >= count] - count
            if not len(part):  # more ranks than rows
                continue
            rows, steps = pairs[acted].unbind(dim=1)
            latents, prompts = (
                scored.trajectory.latents[rows, steps],
                scored.trajectory.prompts[rows],
            )
            if held is not None:
                latents = torch.cat([latents, held.latents[kept]])
                steps = torch.cat([steps, held.steps[kept]])
                prompts = torch.cat([prompts, held.prompts[kept]])
            latents = latents.to(device)
            output = self._answer(latents, steps, prompts)
            total = torch.zeros((), device=device)
            if len(acted):
                cut = slice(len(acted))
                actions = self._actions(scored.trajectory, pairs[acted], latents[cut], output[cut])
                losses = self._losses(scored, advantages, pairs[acted], actions)
                total = total + losses.sum() / count
                seen.log_ratios[acted] = actions.log_ratios
                seen.losses[acted] = losses.detach()
            if held is not None and len(kept):
                mean = self._policy.kernel.mean(
                    output[len(acted) :], latents[len(acted) :], steps[len(acted) :]
                )
                kl = self._policy.kernel.kl(mean, held.reference[kept].to(device), held.steps[kept])
                total = total + (held.weights[kept].to(device) * kl).sum()
                seen.kl[kept] = kl.detach()
            scaler.scale(total).backward()
        return seen

    def _answer(
        self,
        latents: Float[Tensor, "rows channels height width"],
        steps: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows channels height width"]:
        return self._policy.predict(latents, steps, self._conditions[prompts])

    def _actions(
        self,
        trajectory: Trajectory,
        pairs: Pairs,
        latents: Float[Tensor, "pairs channels height width"],
        output: Float[Tensor, "pairs channels height width"],
    ) -> Actions:
        """Evaluates stored actions; ``output``: what the network says at the states before
        them.
        """
        rows, steps = pairs.unbind(dim=1)
        device, dimensions = self._policy.device, self._policy.dimensions
        action = trajectory.latents[rows, steps + 1].to(device)
        _, log_probs, means = self._policy.kernel.step(output, latents, steps, action=action)
        behaviour = trajectory.log_probs[rows, steps].to(device)
        ratios = joint_log_ratio(log_probs.detach(), behaviour, dimensions)
        return Actions(dimensions * log_probs, ratios, means)

    def _losses(
        self, scored: Scored, advantages: Advantages, pairs: Pairs, actions: Actions
    ) -> Float[Tensor, " pairs"]:
        """Returns the loss of each pair."""
        rows, steps = pairs.unbind(dim=1)
        trajectory, means = scored.trajectory, actions.means
        away = None
        if trajectory.means is not None:
            stored = trajectory.latents[rows, steps + 1].float()
            away = (stored - trajectory.means[rows, steps]).to(means.device)
        worth = advantages.at(rows, steps, scored.steps, means.device)
        return self.objective.loss(worth, actions.log_probs, actions.log_ratios, means, away)


def _pairs(steps: Int[Tensor, "batch chosen"]) -> Pairs:
    """Returns each trajectory with each of its steps."""
    rows = torch.arange(len(steps)).repeat_interleave(steps.shape[1])
    return torch.stack([rows, steps.flatten()], dim=1)
