"""Advantages: from rewards and the critic's values to what each step of each trajectory is worth.

The steps are indexed by their starting state: step k goes from state k to state k + 1, k = 0 is
pure noise, state T is the final image. Values are V(state, level), shape (batch, T + 1); only the
last action is rewarded.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.config import EstimatorConfig
from rl_unlearn.trajectory import Scored


def gae(
    values: Float[Tensor, "batch levels"], rewards: Float[Tensor, " batch"], gae_lambda: float
) -> Float[Tensor, "batch steps"]:
    """Generalised advantages with gamma = 1 (Schulman et al. 2016, eq. 16).

    ``delta_k = V_{k+1} - V_k``, and ``r - V_k`` for the last step; lambda = 1 gives ``r - V_k``,
    lambda = 0 the deltas.
    """
    following = torch.cat([values[:, 1:-1], rewards[:, None]], dim=1)
    deltas = following - values[:, :-1]
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(rewards)
    for k in reversed(range(deltas.shape[1])):
        running = deltas[:, k] + gae_lambda * running
        advantages[:, k] = running
    return advantages


def vtrace(
    values: Float[Tensor, "batch levels"],
    rewards: Float[Tensor, " batch"],
    ratios: Float[Tensor, "batch steps"],
    truncation: float,
) -> Float[Tensor, "batch steps"]:
    """Off-policy advantages ``r_k + v_{k+1} - V_k`` with gamma = 1 (Espeholt et al. 2018, eq. 1 and
    section 4.2).

    ``ratios`` are target over behaviour probabilities; rho and c are both truncated at
    ``truncation``. The factor rho_k of the paper's policy gradient is left to the loss, which
    weighs every action by its ratio and truncates that by the learner's clip range. With ratios of
    1 and a truncation of 1 this is ``gae(..., gae_lambda=1)``.
    """
    rho = ratios.clamp(max=truncation)
    bootstrap = torch.cat([values[:, 1:-1], torch.zeros_like(rewards)[:, None]], dim=1)
    reward = torch.zeros_like(rho)
    reward[:, -1] = rewards
    deltas = rho * (reward + bootstrap - values[:, :-1])
    targets = torch.zeros_like(deltas)
    running = torch.zeros_like(rewards)
    for k in reversed(range(deltas.shape[1])):
        running = deltas[:, k] + rho[:, k] * running
        targets[:, k] = values[:, k] + running
    following = torch.cat([targets[:, 1:], torch.zeros_like(rewards)[:, None]], dim=1)
    return reward + following - values[:, :-1]


def group_advantages(
    groups: Int[Tensor, "batch 2"], rewards: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """``(r - mean of the group) / std of all such differences`` (GRPO, Shao et al. 2024, with the
    batch's std).

    ``groups``: prompt and round of each trajectory. A trajectory alone in its group has an
    advantage of 0.
    """
    _, group, sizes = groups.unique(dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros(len(sizes), dtype=rewards.dtype).index_add(0, group, rewards) / sizes
    return standardised(rewards - means[group])


def centred(
    advantages: Float[Tensor, "batch steps"], target: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch steps"]:
    """Returns advantages less their mean over the batch at each step; those of ``target`` prompts
    and the rest apart.

    Values that lag behind the policy are off by much the same for every image. What all of them
    share says nothing about an action and is noise. Of n trajectories (n - 1) / n of the gradient
    is left, as in a group.
    """
    result = advantages.clone()
    for some in (target, ~target):
        result[some] -= advantages[some].mean(dim=0)
    return result


def scale(advantages: Float[Tensor, "batch *steps"]) -> float:
    """Returns what advantages are divided by: the batch's standard deviation."""
    return advantages.std(correction=0).item() + 1e-6


def standardised(advantages: Float[Tensor, "batch *steps"]) -> Float[Tensor, "batch *steps"]:
    """Returns advantages over their standard deviation; the mean is left, for the baseline already
    carries it.
    """
    return advantages / scale(advantages)


class PromptStatistics:
    """Mean and std of the latest rewards of each prompt: the baseline of DDPO (Black et al. 2023,
    sec. 5.1).
    """

    def __init__(self, length: int = 64, minimum: int = 8):
        self._length = length
        self._minimum = minimum
        self._rewards: dict[int, deque[float]] = {}
        self._pooled: dict[bool, deque[float]] = {
            kind: deque(maxlen=4 * length) for kind in (True, False)
        }
        """Latest rewards of all target prompts, and of all others."""
        self._counted: deque[int] = deque(maxlen=64 * length)

    def state(self) -> dict[str, Any]:
        """Returns what :meth:`load` takes, as plain values."""
        rewards = {str(prompt): list(kept) for prompt, kept in self._rewards.items()}
        pooled = [list(self._pooled[kind]) for kind in (True, False)]
        return {"rewards": rewards, "pooled": pooled, "counted": list(self._counted)}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from another one's :meth:`state`."""
        self._rewards = {
            int(prompt): deque(kept, self._length) for prompt, kept in state["rewards"].items()
        }
        for kind, kept in zip((True, False), state["pooled"], strict=True):
            self._pooled[kind] = deque(kept, 4 * self._length)
        self._counted = deque(state["counted"], 64 * self._length)

    def advantages(
        self,
        ids: Int[Tensor, " batch"],
        prompts: Int[Tensor, " batch"],
        target: Bool[Tensor, " batch"],
        rewards: Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """``(r - mean) / std`` of the prompt; while it has fewer than ``minimum`` rewards, of its
        kind.

        ``target``: whether the prompt asks for the concept. Rewards of the two kinds are too far
        apart for one to be the other's baseline. A replayed trajectory (an id that was seen before)
        is judged but not counted again.
        """
        rows = list(
            zip(ids.tolist(), prompts.tolist(), target.tolist(), rewards.tolist(), strict=True)
        )
        for id, prompt, kind, reward in rows:
            if id not in self._counted:
                self._counted.append(id)
                self._rewards.setdefault(prompt, deque(maxlen=self._length)).append(reward)
                self._pooled[kind].append(reward)
        result = []
        for _, prompt, kind, reward in rows:
            latest = self._rewards[prompt]
            known = torch.tensor(
                list(latest if len(latest) >= self._minimum else self._pooled[kind]),
                dtype=torch.float64,
            )
            result.append((reward - known.mean().item()) / (known.std(correction=0).item() + 1e-4))
        return torch.tensor(result, dtype=rewards.dtype)


@dataclass(frozen=True)
class Batch:
    """All that the advantages of a batch may be made of."""

    scored: Scored
    target: Bool[Tensor, " batch"]
    """Whose prompt asks for the concept."""
    ratios: Float[Tensor, "batch steps"] | None
    """Tempered importance ratios under the present policy, if the estimator asks for them."""
    statistics: PromptStatistics
    """What former batches have left, and this one adds to."""
    settings: EstimatorConfig


@dataclass(frozen=True)
class Advantages:
    """Values of the steps, gradients at the actions of chosen steps, or both, in the same units."""

    values: Float[Tensor, "batch steps"] | None
    gradients: Float[Tensor, "batch chosen channels height width"] | None

    def at(
        self,
        rows: Int[Tensor, " pairs"],
        steps: Int[Tensor, " pairs"],
        chosen: Int[Tensor, "batch chosen"],
        device: torch.device,
    ) -> "Worth":
        """Returns those of some (trajectory, step) pairs; ``chosen``: the steps that have
        gradients.
        """
        values = None if self.values is None else self.values[rows, steps].to(device)
        if self.gradients is None:
            return Worth(values, None)
        places = (chosen[rows] == steps[:, None]).int().argmax(dim=1)
        return Worth(values, self.gradients[rows, places].to(device))


@dataclass(frozen=True)
class Worth:
    """Advantages of single actions."""

    values: Float[Tensor, " pairs"] | None
    gradients: Float[Tensor, "pairs channels height width"] | None


def against_prompt(batch: Batch) -> Advantages:
    """Rewards against the running statistics of their prompts, the same for all steps."""
    trajectory = batch.scored.trajectory
    advantages = batch.statistics.advantages(
        trajectory.ids, trajectory.prompts, batch.target, trajectory.rewards
    )
    return Advantages(advantages[:, None].expand_as(trajectory.log_probs), None)


def against_group(batch: Batch) -> Advantages:
    """Rewards against those of the same prompt and round, the same for all steps."""
    trajectory = batch.scored.trajectory
    groups = torch.stack([trajectory.prompts, trajectory.rounds], dim=1)
    advantages = group_advantages(groups, trajectory.rewards)
    return Advantages(advantages[:, None].expand_as(trajectory.log_probs), None)


def by_gae(batch: Batch) -> Advantages:
    """Generalised advantages on the values of the states."""
    assert batch.scored.values is not None
    rewards = batch.scored.trajectory.rewards
    return _scaled(gae(batch.scored.values, rewards, batch.settings.gae_lambda), batch)


def by_vtrace(batch: Batch) -> Advantages:
    """Off-policy advantages on the values of the states."""
    assert batch.scored.values is not None
    assert batch.ratios is not None
    rewards, truncation = batch.scored.trajectory.rewards, batch.settings.truncation
    return _scaled(vtrace(batch.scored.values, rewards, batch.ratios, truncation), batch)


def by_gradients(batch: Batch) -> Advantages:
    """Returns the critic's action gradients alone."""
    return Advantages(None, batch.scored.action_gradients)


def _scaled(advantages: Float[Tensor, "batch steps"], batch: Batch) -> Advantages:
    """Advantages centred and standardised, and the action gradients, if any, in their units."""
    values, gradients = centred(advantages, batch.target), batch.scored.action_gradients
    return Advantages(
        standardised(values), None if gradients is None else gradients / scale(values)
    )
