"""Calls to rollout actors: whoever is busy gets fewer, and whoever has left is asked no more."""

import asyncio
from collections import Counter
from typing import Any

import tiny

from learner.calls import Calls
from learner.roles import Actors


class Asked(tiny.Nobody):
    """A rollout actor that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[str]] = []

    def ask(self) -> "asyncio.Future[str]":
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]


def calls(actors: list[Any], **others: Any) -> Calls:
    return Calls(Actors(actors, *[tiny.Nobody()] * 3, **others), 600.0)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_those_that_have_as_few_calls_take_turns():
    async def scenario() -> None:
        actors = [Asked() for _ in range(3)]
        asking = calls(actors)
        for _ in range(9):
            asking.ask_rollout(Asked.ask)
        assert [len(actor.calls) for actor in actors] == [3, 3, 3]

    asyncio.run(scenario())


def test_an_actor_that_does_not_answer_gets_fewer_calls():
    async def scenario() -> Counter[int]:
        actors = [Asked() for _ in range(3)]
        asking, got = calls(actors), Counter()
        for _ in range(30):
            asking.ask_rollout(Asked.ask)
            for number, actor in enumerate(actors):
                if number > 0:  # the first one never answers
                    for call in actor.calls:
                        call.done() or call.set_result("done")
            await settle()
        got.update({number: len(actor.calls) for number, actor in enumerate(actors)})
        return got

    assert asyncio.run(scenario()) == {0: 1, 1: 15, 2: 14}


def test_what_an_actor_that_left_had_in_hand_is_asked_of_the_least_busy_one():
    async def scenario() -> None:
        there = [Asked(), Asked(), Asked()]
        gone = there[0]

        def left(actor: Any, error: Exception) -> bool:
            there[:] = [other for other in there if other is not actor]
            return isinstance(error, ConnectionError)

        asking = calls(there, left=left)
        answers = [asking.ask_rollout(Asked.ask) for _ in range(3)]
        (lost,) = gone.calls
        free, busy = there[1:]
        free.calls[0].set_result("one")
        await settle()
        lost.set_exception(ConnectionError())
        asked = [asyncio.create_task(answer()) for answer in answers]
        await settle()
        assert (len(free.calls), len(busy.calls), len(gone.calls)) == (2, 1, 1)
        free.calls[1].set_result("again")
        busy.calls[0].set_result("two")
        assert sorted(await asyncio.gather(*asked)) == ["again", "one", "two"]

    asyncio.run(scenario())
