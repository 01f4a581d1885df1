"""The policy versions of a run: those that a round may still be drawn by, and the best one."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from learner.roles import Ref
from learner.timeline import Timeline
from rl_unlearn.messages import Snapshot, Weights, under
from rl_unlearn.validation import Validation


@dataclass(frozen=True)
class Candidate:
    """A version that may be returned, and the round that it drew."""

    round: int
    version: int
    weights: Ref[Weights]
    score: float = -math.inf
    """What selection maximises, once it was validated."""


class Versions:
    """Shared by rollouts and training: references to the policy versions, the newest one, and the
    best ones.
    """

    def __init__(self, version: int, weights: dict[int, Ref[Weights]], timeline: Timeline):
        """``version``: the newest one; ``weights``: its own, and of any that a round may need."""
        self.version = version
        self._weights = weights
        self._timeline = timeline
        self.untouched: Validation | None = None
        """What the selection CLIP saw of version 0."""
        self.best: Candidate | None = None
        """The version to return so far."""
        self.learned = 0
        """The newest round that an update could learn from."""
        self.rounds = 0
        """Rounds that were learned from and whose validation is done."""
        self._changed = asyncio.Condition()

    @property
    def newest(self) -> Ref[Weights]:
        """The reference to the newest version."""
        return self._weights[self.version]

    async def publish(self, version: int, weights: Ref[Weights], newest_round: int) -> None:
        """Makes a version available that could learn from rounds up to ``newest_round``, and
        forgets those that no later round is drawn by.
        """
        async with self._changed:
            self.version, self.learned = version, newest_round
            self._weights[version] = weights
            # Later rounds are not drawn by earlier versions than the next one is.
            needed = self._timeline.drawn_by(newest_round + 1)
            oldest = version if needed is None else min(needed, version)
            for old in [v for v in self._weights if v < oldest]:
                del self._weights[old]
            self._changed.notify_all()

    async def behaviour(self, round: int) -> tuple[int, Ref[Weights]]:
        """The version that draws a round and the reference to it, once there is one; notes it in
        the timeline.
        """
        async with self._changed:
            planned = self._timeline.drawn_by(round)
            version = self.version if planned is None else planned
            await self._changed.wait_for(lambda: self.version >= version)
            self._timeline.drew(round, version)
            return version, self._weights[version]

    async def wait_until_learned(self, round: int) -> None:
        """Returns once an update could learn from this round."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.learned >= round)

    async def passed(self, round: int) -> None:
        """Notes that a round was learned from and its validation is done."""
        async with self._changed:
            self.rounds = round
            self._changed.notify_all()

    async def wait_for_round(self, round: int) -> None:
        """Returns once this round has passed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.rounds >= round)

    async def snapshot(
        self, newest_round: int, seconds: float, fetch: Callable[[Ref[Weights]], Awaitable[Weights]]
    ) -> Snapshot:
        """The versions as if no round after ``newest_round``, which has passed, had been drawn.

        ``fetch`` gets the weights behind a reference; ``seconds``: of the run so far.
        """
        candidate = self.best
        assert candidate is not None
        best = await fetch(candidate.weights)
        kept = {version: await fetch(weights) for version, weights in dict(self._weights).items()}
        assert self.untouched is not None
        tensors = under("best", best.state)
        for version, weights in kept.items():
            tensors |= under(f"weights.{version}", weights.state)
        return Snapshot(
            tensors,
            {
                "updates": self.version,
                "newest_round": newest_round,
                "weights": {str(version): weights.digest for version, weights in kept.items()},
                "first": asdict(self.untouched),
                "best": {
                    "round": candidate.round,
                    "version": candidate.version,
                    "score": candidate.score,
                    "digest": best.digest,
                },
                "seconds": seconds,
            },
        )

    @classmethod
    def restored(cls, snapshot: Snapshot, timeline: Timeline) -> "Versions":
        """The inverse of :meth:`snapshot`; the weights are there themselves, in place of
        references.
        """
        values, best = snapshot.values, snapshot.values["best"]
        weights: dict[int, Ref[Weights]] = {
            int(version): Weights(int(version), snapshot.part(f"weights.{version}"), digest)
            for version, digest in values["weights"].items()
        }
        versions = cls(values["updates"], weights, timeline)
        versions.rounds = versions.learned = values["newest_round"]
        versions.untouched = Validation(**values["first"])
        best_weights = Weights(best["version"], snapshot.part("best"), best["digest"])
        versions.best = Candidate(best["round"], best["version"], best_weights, best["score"])
        return versions
