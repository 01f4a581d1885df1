"""Runs and jobs inside an event loop that runs already, as in a notebook; and what Ctrl-C does
there.
"""

import asyncio
import contextvars
import os
import signal
import threading
import time
from typing import Any

import pytest
import tiny
from fake_head import FakeHead
from tiny import quick  # noqa: F401

from cluster import event_loop, program, submission

PATIENCE = 60


def in_a_loop(call: Any) -> Any:
    """What ``call`` gives where a notebook would call it."""

    async def cell() -> Any:
        return call()

    return asyncio.run(cell())


async def _double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_with_and_without_a_loop() -> None:
    assert event_loop.run(_double(2)) == 4
    assert in_a_loop(lambda: event_loop.run(_double(3))) == 6


def test_variables_of_the_context_go_along() -> None:
    variable = contextvars.ContextVar("variable", default="lost")

    async def look() -> str:
        return variable.get()

    variable.set("kept")
    assert in_a_loop(lambda: event_loop.run(look())) == "kept"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_comes_out_as_itself(error: type[BaseException]) -> None:
    async def fail() -> None:
        raise error("as it is")

    with pytest.raises(error, match="as it is"):
        in_a_loop(lambda: event_loop.run(fail()))


def test_an_interrupt_ends_the_work_in_order() -> None:
    ended: list[str] = []

    async def work() -> None:
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            ended.append("in order")
            raise

    async def cell() -> None:
        # As a notebook's kernel has it; asyncio.run() would only cancel this task, which is not
        # waiting.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                event_loop.run(work())
        finally:
            signal.signal(signal.SIGINT, before)

    start = time.monotonic()
    asyncio.run(cell())
    assert ended == ["in order"]
    assert time.monotonic() - start < PATIENCE / 2


def test_a_run_in_a_notebook_has_the_bits_of_any_other(quick: None) -> None:  # noqa: F811
    alone: list[tuple[str, dict[str, Any]]] = []
    within: list[tuple[str, dict[str, Any]]] = []
    config = tiny.config(loop={"rounds": 2})
    program.train(config, tiny.into(alone))
    in_a_loop(lambda: program.train(config, tiny.into(within)))
    assert len(tiny.versions(alone)) == 2
    assert tiny.versions(within) == tiny.versions(alone)


def test_a_job_is_followed_in_a_notebook() -> None:
    job = submission.Job(FakeHead(["done\n"]), "id", lambda _: None)
    assert in_a_loop(job.follow).status == "SUCCEEDED"


@pytest.mark.long
@pytest.mark.slow
def test_a_run_on_ray_in_a_notebook() -> None:
    events: list[str] = []
    config = tiny.config(
        cluster={"inline": False, "actor_cpus": 0.1}, loop={"rounds": 1, "timeout": 600.0}
    )
    in_a_loop(lambda: program.train(config, lambda event: events.append(event.name)))
    assert "round" in events
