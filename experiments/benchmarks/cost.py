"""What a piece of work costs: seconds, and CPU-seconds of this process and of all that it
started.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

_Process = tuple[int, float]
"""Number and time of creation, as numbers are used again."""


@dataclass(frozen=True)
class Cost:
    """Of some images."""

    images: int
    seconds: float
    cpu_seconds: float
    """User and system, all threads of all processes."""

    @property
    def per_second(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Images a CPU-second."""
        return self.images / self.cpu_seconds

    def row(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self)


class Clock:
    """Runs from when it is made.

    CPU-seconds of processes that end before :meth:`read` are not known any more and left out.
    """

    def __init__(self) -> None:
        self._start, self._before = time.monotonic(), _cpu_seconds()

    def read(self, images: int) -> Cost:
        """Returns what passed since, for so many images."""
        seconds = time.monotonic() - self._start
        used = sum(now - self._before.get(key, 0.0) for key, now in _cpu_seconds().items())
        return Cost(images, seconds, used)


def measured(work: Callable[[], Any], images: int) -> Cost:
    """Does the work and returns what it costs; waits for the GPU, if there is one."""
    synchronize()
    clock = Clock()
    work()
    synchronize()
    return clock.read(images)


def synchronize() -> None:
    """Waits for the GPU, if there is one; without torch nothing is on its way there."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_seconds() -> dict[_Process, float]:
    this = psutil.Process()
    # The clock of this process is finer than what the system keeps of others, hundredths.
    used: dict[_Process, float] = {(this.pid, this.create_time()): time.process_time()}
    for child in this.children(recursive=True):
        try:
            times = child.cpu_times()
            used[child.pid, child.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return used
