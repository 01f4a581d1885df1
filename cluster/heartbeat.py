"""Whether the actors of a run live: each answers a heartbeat on a thread of its own, also while it
works on a call.

A process that is stopped, stuck with the interpreter's lock held, or out of reach gives no answer;
one that works for a long time does. A call that waits for something that never comes is found by
``loop.timeout``.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from learner import events
from learner.calls import awaited, first_of
from learner.events import Emit
from rl_unlearn.errors import LostError

T = TypeVar("T")
GROUP = "heartbeat"
"""Concurrency group, and so thread, of the heartbeat."""
_SLICES = 6

Loss = Literal["fatal", "replaced", "leaves"]
"""What the death of an actor means: the end of the run, nothing because Ray replaces it, or that
there is one fewer."""


@dataclass(frozen=True)
class _Member:
    name: str
    actor: Any
    loss: Loss


def beating(actor: type) -> type:
    """The same class with a method ``beat``, to be made a Ray actor with the concurrency group
    GROUP.
    """
    return type(actor.__name__, (actor,), {"__doc__": actor.__doc__, "beat": _beat})


def _beat(_: object, seconds: float) -> None:
    # It answers late on purpose: a call is under way nearly always, and the death of the process
    # shows at once.
    time.sleep(seconds)


class Heartbeats:
    """Follows actors while a run goes on.

    One that hangs is killed if the run can do without it; the death or hang of any other one ends
    the run.
    """

    def __init__(self, seconds: float, emit: Emit):
        """``seconds``: how long an actor may stay silent.

        ``emit`` takes a warning for each one that is killed.
        """
        self._seconds, self._emit = seconds, emit
        self._members: list[_Member] = []
        self._group: asyncio.TaskGroup | None = None
        self._following: list[asyncio.Task[None]] = []

    def follow(self, name: str, actor: Any, loss: Loss) -> None:
        """Follows one more actor; also while a run goes on."""
        self._members.append(_Member(name, actor, loss))
        if self._group is not None:
            self._following.append(self._group.create_task(self._follow(self._members[-1])))

    async def during(self, run: Coroutine[Any, Any, T]) -> T:
        """The result of ``run``; cancels it and raises LostError or a RayActorError when an actor
        hangs or dies.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                self._following = [
                    self._group.create_task(self._follow(member)) for member in self._members
                ]
                result = await run
                for task in self._following:
                    task.cancel()
        except* Exception as errors:
            raise first_of(errors) from errors
        finally:
            self._group = None
        return result

    async def _follow(self, member: _Member) -> None:
        import ray
        from ray.exceptions import RayActorError

        # Without retries: the beat of a process that dies fails, and is not repeated by the one
        # after it.
        beat = member.actor.beat.options(concurrency_group=GROUP, max_task_retries=0)
        alive = False  # one that still starts may take its time
        while True:
            # The first one is answered at once: from then on silence counts.
            answer = awaited(beat.remote(self._seconds / _SLICES if alive else 0.0))
            try:
                while not await self._answered(answer):
                    if not alive:
                        continue  # asked once: its thread would answer all questions in turn
                    if member.loss == "fatal":
                        raise LostError(
                            f"{member.name} hangs: it gave no heartbeat in {self._seconds:g} s"
                        )
                    silent = f"{member.name} hangs, gave no heartbeat in {self._seconds:g} s"
                    message = f"{silent}: it is killed and replaced"
                    self._emit(events.Warning(message=message))
                    ray.kill(member.actor, no_restart=False)
                    break
                alive = answer.done()
            except RayActorError:
                if member.loss == "fatal":
                    raise
                if member.loss == "leaves":
                    return
                alive = False
                await asyncio.sleep(self._seconds / _SLICES)
            finally:
                answer.cancel()

    async def _answered(self, answer: asyncio.Task[Any]) -> bool:
        # In slices: a pause of this very process counts as one of them, not as a silence of the
        # actors.
        for _ in range(_SLICES):
            done, _pending = await asyncio.wait([answer], timeout=self._seconds / _SLICES)
            if done:
                answer.result()
                return True
        return False
