"""The order in which a run draws and learns: fixed in advance, or decided by timing, noted,
followed when repeated.

Two facts make a run, beside its seed: which policy version draws each round, and the newest round
that each update may learn from. All else is a function of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.config import Config


class Order:
    """Outlives the actors of a run: updates that are lost with them are repeated as they were.

    In synchronous mode round k is drawn by the policy of round k - 1 - ``loop.pipeline``, and an
    update of round k learns from rounds up to k. In asynchronous mode it knows what was noted, or
    stands in rows of the run's ledger.
    """

    def __init__(self, config: Config, ledger: Iterable[Mapping[str, Any]] = ()):
        """``ledger``: what is on record of a run that is to be gone on with, beyond its newest
        checkpoint, too.
        """
        self._sync, self._pipeline = config.loop.mode == "sync", config.loop.pipeline
        self._per_round = config.learner.updates_per_round
        self._drawn_by: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        for row in () if self._sync else ledger:
            self._newest[row["version_in"]] = row["newest_round"]
            self._drawn_by |= {int(round): version for round, version in row["drawn_by"].items()}

    def forget_unseen(self) -> None:
        """Rounds that no update has learned from will be drawn by whoever is the newest then."""
        seen = max(self._newest.values(), default=0)
        self._drawn_by = {
            round: version for round, version in self._drawn_by.items() if round <= seen
        }

    def drawn_by(self, round: int) -> int | None:
        """Policy version that draws a round; None: whichever is the newest then."""
        if self._sync:
            return max(0, round - 1 - self._pipeline) * self._per_round
        return self._drawn_by.get(round)

    def newest_round(self, version: int) -> int | None:
        """Newest round that the update of policy ``version`` learns from; None: the newest there is
        then.
        """
        return version // self._per_round + 1 if self._sync else self._newest.get(version)

    def drew(self, round: int, version: int) -> None:
        """Notes who draws a round."""
        self._drawn_by[round] = version

    def learned(self, version: int, newest_round: int) -> None:
        """Notes how far an update looked."""
        self._newest[version] = newest_round

    def between(self, before: int, newest: int) -> dict[int, int]:
        """Who drew the rounds after ``before``, up to ``newest``."""
        return {round: self._drawn_by[round] for round in range(before + 1, newest + 1)}
