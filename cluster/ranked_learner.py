"""Several learner actors behind a handle that looks like one: the loop does not know how many ranks
there are.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

_EVERYWHERE = ("base_digest", "make_pool", "restore", "update")
"""What all ranks must do; rank 0 speaks for them in everything else."""


class RankedLearner:
    """Ranks of one learner, which join each other in the background.

    The answer of a call that goes to all ranks is rank 0's, once every rank has answered; the first
    error of any rank is the call's. References that may be handed on to other actors come from
    calls to rank 0 alone.
    """

    def __init__(self, ranks: list[Any]):
        """``ranks``: handles of at least two fresh learner actors."""
        self._ranks = ranks
        address = ranks[0].__ray_call__.remote(_listen)
        self._joined = [
            learner.join.remote(rank, len(ranks), address) for rank, learner in enumerate(ranks)
        ]

    def __getattr__(self, name: str) -> Any:
        if name in _EVERYWHERE:
            return _Everywhere(self._joined, [getattr(learner, name) for learner in self._ranks])
        return getattr(self._ranks[0], name)


class _Everywhere:
    def __init__(self, joined: list[Any], methods: list[Any]):
        self._joined, self._methods = joined, methods

    def remote(self, *args: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(
            _first_of([method.remote(*args) for method in self._methods], self._joined)
        )


async def _first_of(answers: list[Any], before: list[Any]) -> Any:
    await asyncio.gather(*before)  # where it fails, the calls after it say less of the cause
    return (await asyncio.gather(*answers))[0]


def _listen(learner: Any) -> str:
    """Runs in rank 0's actor: only there its node's address is known."""
    import ray

    return str(learner.listen(ray.util.get_node_ip_address()))
