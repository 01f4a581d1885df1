"""The actors as the loop sees them: handles to call, and answers that are waited for, but not for
ever.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl_unlearn.errors import LostError


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class Handles:
    """Actors whose methods are called as ``handle.method.remote(...)`` and give awaitable
    references.
    """

    rollouts: Sequence[Any]
    """May become more or fewer during a run."""
    critic: Any
    replay: Any
    learner: Any
    left: Callable[[Any, Exception], bool] = _never
    """Whether the error of a call says that the rollout actor has left, so that another one should
    be asked."""


class Patience:
    """Waits for an answer as long as any actor gives one: the actor asked may itself wait for
    others.
    """

    def __init__(self, handles: Handles, seconds: float):
        """``seconds``: of silence of all actors, after which the one waited for counts as lost."""
        self._handles, self._seconds = handles, seconds
        self._heard = time.monotonic()

    async def wait(self, reference: Awaitable[Any], who: str) -> Any:
        """The answer of ``who``; raises LostError after too long a silence."""
        begun = time.monotonic()
        answer = awaited(reference)
        try:
            while not answer.done():
                left = max(begun, self._heard) + self._seconds - time.monotonic()
                if left <= 0:
                    raise LostError(
                        f"the {who} actor gave no answer in {self._seconds:g} s, nor did any "
                        "other: see its log, or "
                        "raise loop.timeout"
                    )
                await asyncio.wait([answer], timeout=left)
            self._heard = time.monotonic()
            return answer.result()
        finally:
            answer.cancel()

    def ask(
        self, number: int, call: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        """Calls a rollout actor at once; what is returned waits for the answer, another one's if
        that one has left.
        """

        def send() -> tuple[Any, Awaitable[Any]]:
            actors = self._handles.rollouts
            actor = actors[number % len(actors)]
            return actor, call(actor)

        sent = send()

        async def answer() -> Any:
            actor, reference = sent
            while True:
                try:
                    return await self.wait(reference, "rollout")
                except Exception as error:
                    if not self._handles.left(actor, error):
                        raise
                    actor, reference = send()

        return answer


def awaited(reference: Awaitable[Any]) -> asyncio.Task[Any]:
    """A task of the answer.

    Where its waiter is cancelled first, an error in it is nobody's any more, and not told.
    """

    async def answer() -> Any:
        return await reference

    task = asyncio.ensure_future(answer())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def first_of(errors: BaseExceptionGroup) -> BaseException:
    """The error that came first and cancelled the other tasks of its group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
