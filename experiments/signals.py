"""SIGINT and SIGTERM end a run in order: the first raises, a second ends the process at once."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}

SECONDS = 20
"""What a run has for its end. Longer takes only a Ray whose daemons the same signal has ended."""

_received: int | None = None
_note: Callable[["Stopped"], None] | None = None
_deadline: threading.Timer | None = None


class Stopped(KeyboardInterrupt):
    """An interrupt by a signal; as a KeyboardInterrupt it passes through event loops."""

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        super().__init__(self.name)


def cause(stop: KeyboardInterrupt) -> Stopped:
    """Returns the signal behind an interrupt.

    Ray's waiting calls turn `Stopped` into a plain KeyboardInterrupt.
    """
    return (
        stop
        if isinstance(stop, Stopped)
        else Stopped(signal.SIGINT if _received is None else _received)
    )


@contextmanager
def noted(note: Callable[[Stopped], None]) -> Iterator[None]:
    """Hands the first signal to `note` at once; the process then ends within `SECONDS`."""
    global _note
    _note = note
    try:
        yield
    finally:
        _note = None
        if _deadline is not None:
            _deadline.cancel()


def install() -> None:
    """Takes both signals over.

    Harmless when repeated, as needed after `ray.init()` sets its own.
    """
    if threading.current_thread() is threading.main_thread():
        for number in EXIT_CODES:
            if signal.getsignal(number) is not _stop:
                signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    global _received, _deadline
    if _received is not None:
        os._exit(EXIT_CODES[signal.Signals(number)])
    _received = number
    # Every task under way ends with this exception; asyncio would print a traceback for each of
    # them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    stop = Stopped(number)
    if _note is not None:
        with suppress(Exception):
            _note(stop)
        _deadline = threading.Timer(SECONDS, os._exit, [stop.exit_code])
        _deadline.daemon = True
        _deadline.start()
    raise stop
