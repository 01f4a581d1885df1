"""Advantage estimators: from rewards and the critic's values to one number for each step of each trajectory.

The steps are indexed by their starting state: step k goes from state k to state k + 1, k = 0 is pure noise, state T is
the final image. Values are V(state, level), shape (batch, T + 1); only the last action is rewarded.
"""

from collections import deque

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gae(
    values: Float[Tensor, "batch levels"], rewards: Float[Tensor, " batch"], gae_lambda: float
) -> Float[Tensor, "batch steps"]:
    """Generalised advantages with gamma = 1 (Schulman et al. 2016, eq. 16).

    ``delta_k = V_{k+1} - V_k``, and ``r - V_k`` for the last step; lambda = 1 gives ``r - V_k``, lambda = 0 the deltas.
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
    """Off-policy advantages with gamma = 1 (Espeholt et al. 2018, eq. 1 and section 4.2).

    ``ratios`` are target over behaviour probabilities; rho and c are both truncated at ``truncation``. With ratios of 1
    and a truncation of 1 this is ``gae(..., gae_lambda=1)``.
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
    return rho * (reward + following - values[:, :-1])


def standardised(advantages: Float[Tensor, "batch steps"]) -> Float[Tensor, "batch steps"]:
    """Divided by the batch's standard deviation; the mean is left, for the critic's baseline already carries it."""
    return advantages / (advantages.std(correction=0) + 1e-6)


class PromptStatistics:
    """Mean and std of the latest rewards of each prompt: the baseline of DDPO (Black et al. 2023, sec. 5.1)."""

    def __init__(self, length: int = 64, minimum: int = 8):
        self._length = length
        self._minimum = minimum
        self._rewards: dict[int, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=4 * length)

    def advantages(self, prompts: Int[Tensor, " batch"], rewards: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """``(r - mean) / std`` of the prompt; of all prompts while a prompt has fewer than ``minimum`` rewards."""
        for prompt, reward in zip(prompts.tolist(), rewards.tolist(), strict=True):
            self._rewards.setdefault(prompt, deque(maxlen=self._length)).append(reward)
            self._all.append(reward)
        result = []
        for prompt, reward in zip(prompts.tolist(), rewards.tolist(), strict=True):
            own = self._rewards[prompt]
            known = torch.tensor(list(own if len(own) >= self._minimum else self._all), dtype=torch.float64)
            result.append((reward - known.mean().item()) / (known.std(correction=0).item() + 1e-4))
        return torch.tensor(result, dtype=rewards.dtype)
