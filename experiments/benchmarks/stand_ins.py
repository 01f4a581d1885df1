"""Actors that take time or none and send what real ones send, without a model: `scale` measures
the loop and the transport by them.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import torch

from rl_unlearn.adapters.adapter import digest
from rl_unlearn.critic_file import CriticState
from rl_unlearn.messages import Request, Snapshot, Weights
from rl_unlearn.states import States
from rl_unlearn.trajectory import PER_ROUND, Scores, Trajectory
from rl_unlearn.validation import Sightings

OUTCOMES = 28


@dataclass(frozen=True)
class Size:
    """Shape of the latents, steps of a trajectory, and the type that both are stored in."""

    latents: tuple[int, int, int]
    steps: int
    dtype: torch.dtype

    def trajectory(self, images: int) -> Trajectory:
        """Trajectories of round 0 that hold no more than their shape."""
        count = torch.zeros(images, dtype=torch.int64)
        return Trajectory(
            ids=torch.arange(images),
            rounds=count,
            policy_versions=count.clone(),
            prompts=count.clone(),
            latents=torch.ones(images, self.steps + 1, *self.latents, dtype=self.dtype),
            log_probs=torch.zeros(images, self.steps),
            outcomes=torch.zeros(images, OUTCOMES),
            rewards=torch.zeros(images),
            evidence=torch.zeros(images),
        )

    @property
    def bytes(self) -> int:
        """Bytes of one trajectory."""
        return sum(tensor.nbytes for tensor in self.trajectory(1).tensors().values())


class Sleepers:
    """Many rollout actors in one process; each sleeps where it would draw."""

    def __init__(self, count: int, size: Size, images: int, seconds: float):
        """``images``: of a call, at most; ``seconds``: for each of them."""
        self._turns = [asyncio.Lock() for _ in range(count)]
        self._trajectory, self._seconds = size.trajectory(images), seconds

    async def base_digest(self, number: int) -> str:
        """Returns the checksum of no model."""
        return ""

    async def anchor(self, number: int) -> str:
        """Names nothing."""
        return "nothing"

    async def sample(self, number: int, request: Request, weights: Weights) -> Trajectory:
        """Trajectories of the request's ids, after the time that drawing them would take."""
        count = len(request.prompts)
        await self._sleep(number, count)
        drawn, first = self._trajectory[:count], request.round * PER_ROUND + request.offset
        return Trajectory(
            **drawn.tensors()
            | {
                "ids": torch.arange(first, first + count),
                "rounds": torch.full((count,), request.round),
                "policy_versions": torch.full((count,), weights.version),
                "prompts": torch.tensor(request.prompts),
            }
        )

    async def validate(
        self, number: int, prompts: tuple[int, ...], offset: int, weights: Weights
    ) -> Sightings:
        """Sees nothing, after the time that drawing these images would take."""
        count = len(prompts)
        await self._sleep(number, count)
        nothing = torch.zeros(count, dtype=torch.bool)
        return Sightings(torch.zeros(count), torch.zeros(count), nothing, nothing, nothing)

    async def _sleep(self, number: int, images: int) -> None:
        async with self._turns[number]:
            await asyncio.sleep(self._seconds * images)


class Sleeper:
    """A handle of one of the rollout actors in a process of several."""

    def __init__(self, sleepers: Any, number: int):
        self._sleepers, self._number = sleepers, number

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._sleepers, name), self._number)


class _Method:
    def __init__(self, method: Any, number: int):
        self._method, self._number = method, number

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._number, *arguments)


class Critic:
    """Answers at once, with values and action gradients of the shapes of real ones."""

    def __init__(self, size: Size, images: int):
        self._values = torch.zeros(images, size.steps + 1)
        self._gradients = torch.zeros(images, size.steps, *size.latents, dtype=size.dtype)
        self._steps = torch.arange(size.steps).expand(images, -1)

    def warm_up(self, trajectory: Trajectory, part: int, parts: int) -> dict[str, float]:
        """Learns nothing."""
        return {}

    def fit(self, states: States, number: int) -> dict[str, float]:
        """Learns nothing."""
        return {}

    def score(self, trajectory: Trajectory, version: int) -> Scores:
        """Values nothing."""
        parts = (self._steps, self._values, self._gradients)
        return Scores(*(part[: len(trajectory)] for part in parts))

    def snapshot(self) -> Snapshot:
        """Returns nothing."""
        return Snapshot({})

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> None:
        """Takes nothing over."""

    def state(self) -> CriticState | None:
        """Returns nothing."""
        return None


class Learner:
    """Answers at once: each update is the next version of the same weights."""

    def __init__(self) -> None:
        self._version = 0

    def base_digest(self) -> str:
        """Returns the checksum of no model."""
        return ""

    def weights(self) -> Weights:
        """Returns a small adapter."""
        state = {"adapter": torch.full((1, 1024), float(self._version))}
        return Weights(self._version, state, digest(state))

    def untouched(self) -> Weights:
        """Returns the first version."""
        return self.weights()

    def make_pool(self, trajectory: Trajectory) -> int:
        """Keeps nothing."""
        return 0

    def update(self, trajectory: Trajectory, scores: Scores, version: int) -> dict[str, Any]:
        """Counts up."""
        lag = version - int(trajectory.policy_versions.min())
        self._version = version + 1
        return {
            "policy_version": self._version, "policy_lag_max": lag, "batch": "", "weights": "",
            "trajectories": len(trajectory),
        }  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Returns nothing."""
        return Snapshot({})

    def restore(self, snapshot: Snapshot, warm_up: Trajectory) -> int:
        """Takes nothing over."""
        return 0
