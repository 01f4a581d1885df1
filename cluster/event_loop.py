"""Runs a coroutine to its end, also where an event loop runs already, as in a notebook."""

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``: here, or in a thread of its own where this one's event loop is busy.

    Waits for it either way. What interrupts the waiting, as Ctrl-C does, cancels the work, which
    then has its time to end in order; a second interrupt leaves it alone.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _apart(work)


def _apart(work: Coroutine[Any, Any, T]) -> T:
    began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()
    ended: Future[T] = Future()

    async def main() -> T:
        began.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    def run_apart() -> None:
        try:
            ended.set_result(asyncio.run(main()))
        except BaseException as error:  # an interrupt from within, too, belongs to who waits
            ended.set_exception(error)

    # A daemon: who is interrupted twice need not wait for it.
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(run_apart,), name="event loop", daemon=True
    )
    thread.start()
    try:
        return ended.result()
    except BaseException:
        if not ended.done():
            loop, task = began.result()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
            ended.exception()
        raise
