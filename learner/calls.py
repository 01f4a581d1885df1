"""Calls to actors whose answers are waited for, but not for ever."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from learner.roles import Actors, RolloutHandle
from rl_unlearn.errors import LostError

T = TypeVar("T")

Answer = Callable[[], Awaitable[T]]
"""Waits for the answer of a call that was made."""


class Calls:
    """Waits for an answer as long as any actor gives one: the actor that was asked may itself wait
    for others.
    """

    def __init__(self, actors: Actors, seconds: float):
        """``seconds``: of silence of all actors, after which the one waited for counts as lost."""
        self._actors, self._seconds = actors, seconds
        self._heard = time.monotonic()
        self._unanswered: Counter[RolloutHandle] = Counter()
        self._asked: Counter[RolloutHandle] = Counter()
        """When each was asked last, in calls."""
        self._count = 0

    async def wait(self, reference: Awaitable[T], who: str) -> T:
        """The answer of ``who``; raises LostError after too long a silence."""
        begun = time.monotonic()
        answer = awaited(reference)
        try:
            while not answer.done():
                left = max(begun, self._heard) + self._seconds - time.monotonic()
                if left <= 0:
                    raise LostError(
                        f"the {who} actor gave no answer in {self._seconds:g} s, nor did any "
                        "other: see its log, or raise loop.timeout"
                    )
                await asyncio.wait([answer], timeout=left)
            self._heard = time.monotonic()
            return answer.result()
        finally:
            answer.cancel()

    def ask_rollout(self, call: Callable[[RolloutHandle], Awaitable[T]]) -> Answer[T]:
        """Calls the rollout actor with the fewest unanswered calls, at once; what is returned waits
        for the answer.

        So a slow one gets fewer. If that actor has left, another one is asked.
        """

        def send() -> tuple[RolloutHandle, Awaitable[T]]:
            actor = self._least_busy()
            answer = awaited(call(actor))
            self._unanswered[actor] += 1
            answer.add_done_callback(lambda _: self._unanswered.subtract([actor]))
            return actor, answer

        sent = send()

        async def answer() -> T:
            actor, reference = sent
            while True:
                try:
                    return await self.wait(reference, "rollout")
                except Exception as error:
                    if not self._actors.left(actor, error):
                        raise
                    actor, reference = send()

        return answer

    def _least_busy(self) -> RolloutHandle:
        """The rollout actor with the fewest unanswered calls; those that have as few take turns."""
        there = len(self._actors.rollouts)
        actors = self._actors.rollouts[:there]
        actor = min(actors, key=lambda actor: (self._unanswered[actor], self._asked[actor]))
        self._count += 1
        self._asked[actor] = self._count
        return actor


def awaited(reference: Awaitable[T]) -> asyncio.Task[T]:
    """A task of the answer.

    Where its waiter is cancelled first, an error in it is nobody's any more, and not told.
    """

    async def answer() -> T:
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
