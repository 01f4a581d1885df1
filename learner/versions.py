"""What a run has come to: the policy versions there are, the best one, and what of it a checkpoint
keeps.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from learner.timeline import Order
from rl_unlearn.requests import Look
from rl_unlearn.snapshot import Snapshot, under
from rl_unlearn.trajectory import Trajectory
from rl_unlearn.weights import Weights


@dataclass(frozen=True)
class Resumption:
    """What a run goes on from: the warm-up's trajectories and the parts of a checkpoint."""

    warm_up: Trajectory
    parts: dict[str, Snapshot]

    @property
    def newest_round(self) -> int:
        """Newest round of rollouts that it knows; in asynchronous mode these may be ahead of the
        training's.
        """
        return int(self.parts["loop"].values["newest_round"])


@runtime_checkable
class Keeper(Protocol):
    """Where checkpoints go; called on the driver. Absent, nothing is kept."""

    def due(self, round: int) -> bool:
        """Whether a checkpoint shall be made after this round."""

    def keep_warm_up(self, warm_up: Snapshot) -> None:
        """The warm-up's trajectories: written once, needed by every checkpoint."""

    def commit(self, round: int, parts: dict[str, Snapshot]) -> None:
        """Keeps the parts `learner`, `critic`, `replay` and `loop` as one, or nothing of them."""

    def keep_refused(self, round: int, trajectories: Snapshot) -> str:
        """Puts trajectories that are not finite where a person can look at them; returns where."""

    def newest(self, warn: Callable[[str], None]) -> tuple[int, Resumption] | None:
        """The newest valid checkpoint and its round, None if none was made yet; names damaged ones
        through ``warn``.
        """


@dataclass(frozen=True)
class Choice:
    """A version that was better than all before it."""

    round: int
    version: int
    score: float
    weights: Any


class Board:
    """What both coroutines share: references to the policy versions, the newest version, and the
    best ones.
    """

    def __init__(self, version: int, weights: dict[int, Any], order: Order):
        self.version = version
        self._order = order
        self.first: Look | None = None
        self.choices: list[Choice] = []
        self.rounds = 0
        """Rounds whose rollouts and look are done."""
        self._weights = weights
        self._published = asyncio.Condition()

    @property
    def newest(self) -> Any:
        """The reference to the newest version."""
        return self._weights[self.version]

    @property
    def best(self) -> Choice | None:
        """The version to return so far."""
        return self.choices[-1] if self.choices else None

    async def publish(self, version: int, weights: Any, newest_round: int) -> None:
        """Makes a version available and forgets those that no round after ``newest_round`` is drawn
        by.
        """
        async with self._published:
            self.version = version
            self._weights[version] = weights
            needed = self._order.drawn_by(
                newest_round + 1
            )  # later rounds are not drawn by earlier versions
            for old in [
                v for v in self._weights if v < min(version if needed is None else needed, version)
            ]:
                del self._weights[old]
            self._published.notify_all()

    async def behaviour(self, round: int) -> tuple[int, Any]:
        """The version that draws a round and the reference to it, once there is one; notes it in
        the order.
        """
        async with self._published:
            ordered = self._order.drawn_by(round)
            version = self.version if ordered is None else ordered
            await self._published.wait_for(lambda: self.version >= version)
            self._order.drew(round, version)
            return version, self._weights[version]

    async def passed(self, round: int) -> None:
        """A round's rollouts and look are done."""
        async with self._published:
            self.rounds = round
            self._published.notify_all()

    async def wait_for_round(self, round: int) -> None:
        """Until this round has passed."""
        async with self._published:
            await self._published.wait_for(lambda: self.rounds >= round)

    async def snapshot(
        self, newest_round: int, seconds: float, fetch: Callable[[Any], Awaitable[Weights]]
    ) -> Snapshot:
        """The board as if no round after ``newest_round`` had been drawn; ``fetch`` gets the
        weights of a reference.
        """
        chosen = [choice for choice in self.choices if choice.round <= newest_round][-1]
        best = await fetch(chosen.weights)
        needed = {
            version: await fetch(reference) for version, reference in dict(self._weights).items()
        }
        assert self.first is not None
        tensors = under("best", best.state)
        for version, weights in needed.items():
            tensors |= under(f"weights.{version}", weights.state)
        return Snapshot(
            tensors,
            {
                "updates": self.version,
                "newest_round": newest_round,
                "weights": {str(version): weights.digest for version, weights in needed.items()},
                "first": asdict(self.first),
                "best": {
                    "round": chosen.round,
                    "version": chosen.version,
                    "score": chosen.score,
                    "digest": best.digest,
                },
                "seconds": seconds,
            },
        )

    @classmethod
    def restored(cls, snapshot: Snapshot, order: Order) -> "Board":
        """Inverse of :meth:`snapshot`; the weights are there themselves, in place of references."""
        values, chosen = snapshot.values, snapshot.values["best"]
        weights = {
            int(version): Weights(int(version), snapshot.part(f"weights.{version}"), digest)
            for version, digest in values["weights"].items()
        }
        board = cls(values["updates"], dict(weights), order)
        board.rounds = values["newest_round"]
        board.first = Look(**values["first"])
        best = Weights(chosen["version"], snapshot.part("best"), chosen["digest"])
        board.choices = [Choice(chosen["round"], chosen["version"], chosen["score"], best)]
        return board

    def settle(self, round: int) -> None:
        """Forgets choices that no checkpoint of this round or later can need."""
        settled = [choice for choice in self.choices if choice.round <= round]
        self.choices = settled[-1:] + [choice for choice in self.choices if choice.round > round]
