"""Faults at a chosen step and point, for tests alone: an actor class that kills, stops or poisons
itself once.
"""

import functools
import inspect
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

FAULTS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def faulty(
    actor: type,
    method: str,
    call: int,
    point: Literal["before", "after"],
    fault: str | Callable[[Any], Any],
    mark: Path,
) -> Any:
    """The same class, of which one instance meets ``fault`` before or after the work of the
    ``call``-th ``method``.

    The file ``mark`` is made then, and as long as it exists nothing happens again, in any process.
    It holds the pid. A function as fault changes what the method returns.
    """

    counter = f"_calls_seen_{mark.name}"  # one class may meet several faults

    def due(self: Any) -> bool:
        setattr(self, counter, getattr(self, counter, 0) + 1)
        if getattr(self, counter) != call or mark.exists():
            return False
        mark.write_text(str(os.getpid()))
        return True

    def meet(result: Any) -> Any:
        if callable(fault):
            return fault(result)
        FAULTS[fault]()
        return result

    original = getattr(actor, method)
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            now = due(self)
            if now and point == "before":
                meet(None)
            result = await original(self, *args, **kwargs)
            return meet(result) if now and point == "after" else result
    else:

        @functools.wraps(original)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            now = due(self)
            if now and point == "before":
                meet(None)
            result = original(self, *args, **kwargs)
            return meet(result) if now and point == "after" else result

    return type(actor.__name__, (actor,), {method: wrapped})
