"""Who does what in a pair of the comparison with the peers, and which figures are compared."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.benchmarks.cost import Cost
from experiments.benchmarks.pairs import Pair, fastest, ratios
from experiments.benchmarks.workers import Worker

PARTS = ("rollout", "learner", "round")
OURS, TRL, DIFFUSERS = "rl-unlearn", "trl", "diffusers"
_KIND = "images_per_cpu_second"
"""Tells which size of a pass is the best one."""


def sized(name: str, size: int) -> str:
    """Names a contestant that learns from so many states in a pass."""
    return f"{name}, {size} at once"


class Contest:
    """Three processes, and the sizes of a pass that ours and TRL are tried with."""

    def __init__(
        self,
        workers: tuple[Worker, Worker, Worker],
        our_sizes: Sequence[int],
        trl_sizes: Sequence[int],
        trl_threads: Sequence[int],
    ):
        """``workers``: ours, the bare pipeline's, TRL's.

        In a round TRL has its last size, and all of these numbers of threads in turn.
        """
        self._ours, self._bare, self._trl = workers
        self._our_sizes, self._trl_sizes = our_sizes, trl_sizes
        self._threads = {
            sized(TRL, trl_sizes[-1]) + (f", {count} threads" if count > 1 else ""): count
            for count in trl_threads
        }

    def turns(self, part: str) -> Mapping[str, Callable[[], Cost]]:
        """Returns what each contestant of a part does in its turn."""
        call = functools.partial
        if part == "rollout":
            return {
                DIFFUSERS: call(self._bare, "diffusers"),
                OURS: call(self._ours, "rollout"),
                TRL: call(self._trl, "rollout"),
            }
        if part == "learner":
            both = ((OURS, self._ours, self._our_sizes), (TRL, self._trl, self._trl_sizes))
            return {
                sized(name, size): call(worker, "learn", size=size)
                for name, worker, sizes in both
                for size in sizes
            }
        size = self._trl_sizes[-1]
        return {OURS: call(self._ours, "round")} | {
            name: call(self._trl, "epoch", size=size, threads=threads)
            for name, threads in self._threads.items()
        }

    def warm_up(self, parts: Sequence[str]) -> None:
        """Has everything done once that needs to be loaded first; our loop warms up by itself."""
        for part in parts:
            for name, turn in self.turns(part).items():
                if (part, name) != ("round", OURS):
                    turn()

    def pair(self, number: int, parts: Sequence[str]) -> Pair:
        """Has all turns of a pair taken; every other pair has them in the opposite order."""
        costs: dict[str, dict[str, Cost]] = {}
        for part in parts:
            turns = [*self.turns(part).items()]
            taken = {name: turn() for name, turn in (turns if number % 2 else turns[::-1])}
            costs[part] = {name: taken[name] for name, _ in turns}
        return costs

    def ratios(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Returns what is compared: passes of one size, and each contestant at its best."""
        compared: list[dict[str, Any]] = []
        if "rollout" in pairs[0]:
            compared += [ratios(pairs, "rollout", OURS, other) for other in (TRL, DIFFUSERS)]
        if "learner" in pairs[0]:
            both = [(sized(OURS, size), sized(TRL, size)) for size in self._trl_sizes]
            ours, theirs = (
                fastest(pairs, "learner", [sized(name, size) for size in sizes], _KIND)
                for name, sizes in ((OURS, self._our_sizes), (TRL, self._trl_sizes))
            )
            both = [*dict.fromkeys([*both, (ours, theirs)])]
            compared += [ratios(pairs, "learner", *names) for names in both]
        if "round" in pairs[0]:
            compared += [ratios(pairs, "round", OURS, other) for other in self._threads]
        return compared
