"""Heartbeats with actors made up for it: who still starts, who falls silent, and who leaves."""

import asyncio
from typing import Any

import pytest

from cluster.heartbeat import Heartbeats
from rl_unlearn.errors import LostError

SECONDS = 0.3
"""Of silence."""


class Actor:
    """Answers so many beats, then none."""

    def __init__(self, beats: int):
        self._left, self.asked = beats, 0
        self.beat = self

    def options(self, **_: Any) -> "Actor":
        return self

    def remote(self, seconds: float) -> Any:
        self.asked += 1
        self._left -= 1
        return (
            asyncio.sleep(seconds)
            if self._left >= 0
            else asyncio.get_running_loop().create_future()
        )


def follow(actor: Actor, seconds: float) -> str:
    heartbeats = Heartbeats(SECONDS, lambda event: pytest.fail(str(event)))
    heartbeats.follow("Worker 1", actor, "fatal")

    async def run() -> str:
        await asyncio.sleep(seconds)
        return "done"

    return asyncio.run(heartbeats.during(run()))


def test_an_actor_that_still_starts_may_take_its_time_and_is_asked_once():
    actor = Actor(0)
    assert follow(actor, 4 * SECONDS) == "done"
    assert actor.asked == 1, "or it would have all the questions to answer when it has started"


def test_an_actor_that_falls_silent_is_lost():
    with pytest.raises(LostError, match=r"Worker 1 hangs: it gave no heartbeat in 0\.3 s"):
        follow(Actor(3), 60)


def test_an_actor_that_answers_is_left_alone():
    actor = Actor(1000)
    assert follow(actor, 4 * SECONDS) == "done"
    assert actor.asked > 3
