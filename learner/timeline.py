"""The order in which a run draws and learns: fixed in advance, or decided by timing and then
repeated from the record.

Two facts make a run, beside its seed: which policy version draws each round, and the newest round
that each update may learn from. All else is a function of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.config import Config


class Timeline:
    """Which version draws which round, and how far each update looks.

    It outlives the actors of a run: updates that are lost with them are repeated as they were.

    In synchronous mode round k is drawn by the policy of round k - 1 - ``loop.pipeline``, and an
    update of round k learns from rounds up to k. In asynchronous mode it knows what was noted, or
    stands in rows of the run's ledger.
    """

    def __init__(self, config: Config, ledger: Iterable[Mapping[str, Any]] = ()):
        """``ledger``: the rows on record of a run to be resumed, those after its newest checkpoint
        included.
        """
        self._sync, self._pipeline = config.loop.mode == "sync", config.loop.pipeline
        self._per_round = config.learner.updates_per_round
        self._drawn_by: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        for row in () if self._sync else ledger:
            self._newest[row["version_in"]] = row["newest_round"]
            self._drawn_by |= {int(round): version for round, version in row["drawn_by"].items()}

    def forget_unseen(self) -> None:
        """Leaves rounds that no update has learned from to whichever version is the newest then."""
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
        """Notes which version draws a round."""
        self._drawn_by[round] = version

    def learned(self, version: int, newest_round: int) -> None:
        """Notes the newest round that an update could learn from."""
        self._newest[version] = newest_round

    def between(self, before: int, newest: int) -> dict[int, int]:
        """The versions that drew the rounds after ``before``, up to ``newest``."""
        return {round: self._drawn_by[round] for round in range(before + 1, newest + 1)}
