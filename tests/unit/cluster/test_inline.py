"""Inline handles: the order of calls, references as arguments, and waiting coroutines, as with
Ray."""

import asyncio
from typing import Any

import pytest

from cluster.inline import InlineHandle


class Recorder:
    """An actor that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.opened = asyncio.Event()

    def tell(self, value: Any, extra: Any = None) -> Any:
        self.told.append(value if extra is None else (value, extra))
        return value

    def fail(self) -> None:
        raise ValueError("as it is")

    async def wait(self, value: Any) -> Any:
        await self.opened.wait()
        self.told.append(value)
        return value

    async def open(self) -> None:
        self.opened.set()


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def test_calls_to_one_actor_run_in_order_though_an_argument_is_late():
    async def scenario() -> list[Any]:
        actor, late = Recorder(), asyncio.get_running_loop().create_future()
        handle = InlineHandle(actor)
        first, second = handle.tell.remote(late), handle.tell.remote("second")
        await asyncio.sleep(0.01)
        assert actor.told == [], "the second call overtook the first"
        late.set_result("first")
        assert await first == "first"
        assert await second == "second"
        return actor.told

    assert run(scenario()) == ["first", "second"]


def test_references_are_resolved_and_pass_between_actors():
    async def scenario() -> None:
        one, other = InlineHandle(Recorder()), InlineHandle(recorder := Recorder())
        reference = one.tell.remote(1)
        assert await other.tell.remote(reference, extra=one.tell.remote(2)) == 1
        assert recorder.told == [(1, 2)]

    run(scenario())


def test_a_reference_can_be_awaited_twice():
    async def scenario() -> None:
        reference = InlineHandle(Recorder()).tell.remote(5)
        assert (await reference, await reference) == (5, 5)

    run(scenario())


def test_coroutine_methods_wait_without_blocking_the_actor():
    async def scenario() -> list[Any]:
        actor = Recorder()
        handle = InlineHandle(actor)
        waiting = handle.wait.remote("later")
        await handle.tell.remote("now")
        await handle.open.remote()
        await waiting
        return actor.told

    assert run(scenario()) == ["now", "later"]


def test_an_error_comes_out_as_itself_and_reaches_those_who_depend_on_it():
    async def scenario() -> None:
        handle = InlineHandle(Recorder())
        failed = handle.fail.remote()
        dependent = InlineHandle(Recorder()).tell.remote(failed)
        for reference in (failed, dependent):
            with pytest.raises(ValueError, match="as it is"):
                await reference
        assert await handle.tell.remote("alive") == "alive"

    run(scenario())


def test_an_unknown_method_fails_at_once():
    async def scenario() -> None:
        with pytest.raises(AttributeError):
            InlineHandle(Recorder()).no_such_method.remote()

    run(scenario())
