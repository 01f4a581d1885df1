"""Experiment trackers, each on its own thread: one that is slow, down or broken is a warning."""

import os
import queue
import re
import threading
from collections.abc import Callable
from typing import Any

from experiments.extras import EXTRAS, installed
from experiments.runs.backends import OPENERS, Opened
from experiments.runs.run_folder import RunFolder
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError

WAITING = 1000
"""Events that may wait for a slow tracker; further ones are not told to it, and the run says so."""
CLOSING_SECONDS = 30.0
_SECRET = re.compile("KEY|TOKEN|PASSWORD|SECRET")
_SHORTEST_SECRET = 6

Scalars = dict[str, float]
_Item = tuple[Scalars, int] | str


def check(config: Config) -> None:
    """Raises ConfigError if the package of a tracker that was asked for is not installed."""
    for name in config.trackers:
        if not installed(name):
            raise ConfigError(
                f"trackers={name}: not installed; {EXTRAS[name].remedy}, or leave it out"
            )


def scalars(event: str, row: dict[str, Any]) -> Scalars:
    """Returns the numbers of an event's row by the names that trackers show.

    Those of a field of fields or of a list count, too.
    """
    numbers: Scalars = {}
    for key, value in row.items():
        fields = (
            {f"{i:02d}": part for i, part in enumerate(value)} if isinstance(value, list) else value
        )
        parts = fields.items() if isinstance(fields, dict) else [("", fields)]
        for part, number in parts:
            if isinstance(number, int | float) and key != "round":
                numbers[f"{event}/{key}{'.' if part else ''}{part}"] = float(number)
    return numbers


def redacted(text: str) -> str:
    """Returns one line without secrets.

    These are what the environment holds as one, and user and password of an address.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name.upper()) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return " ".join(re.sub(r"//[^/@\s]+@", "//***@", text).split())[:300]


class Tracker:
    """One backend behind a queue; nothing that it does holds the run up or ends it."""

    def __init__(self, name: str, folder: RunFolder, config: Config):
        self.name = name
        self._items: queue.Queue[_Item] = queue.Queue(WAITING)
        self._trouble: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._off = threading.Event()
        self._thread = threading.Thread(
            target=self._work,
            args=(lambda: OPENERS[name](folder, config),),
            name=f"tracker-{name}",
            daemon=True,
        )
        self._thread.start()

    def log(self, numbers: Scalars, step: int) -> None:
        """Hands numbers over, unless the tracker is off; never waits."""
        if numbers and not self._off.is_set():
            try:
                self._items.put_nowait((numbers, step))
            except queue.Full:
                self._give_up(f"is {WAITING} events behind")

    def close(self, state: str) -> None:
        """Says how the run ended, and waits a little for what is under way.

        `state` is `finished`, `failed` or `stopped`.
        """
        if not self._off.is_set():
            try:
                self._items.put_nowait(state)
            except queue.Full:
                self._give_up(f"is {WAITING} events behind")
        self._thread.join(0 if self._off.is_set() else CLOSING_SECONDS)
        if self._thread.is_alive() and not self._off.is_set():
            self._give_up(f"had not written everything {CLOSING_SECONDS:g} s after the end")

    def trouble(self) -> str | None:
        """Returns what went wrong, once."""
        return None if self._trouble.empty() else self._trouble.get()

    def _give_up(self, why: str) -> None:
        if not self._off.is_set():
            self._off.set()
            self._trouble.put(f"{self.name} is off: {redacted(why)}")

    def _work(self, opener: Callable[[], Opened]) -> None:
        try:
            backend = opener()
            while not self._off.is_set():
                item = self._items.get()
                if isinstance(item, str):
                    backend.close(item)
                    return
                backend.log(*item)
        except BaseException as error:  # some backends raise SystemExit
            self._give_up(f"{type(error).__name__}: {error}")


def open_trackers(config: Config, folder: RunFolder) -> list[Tracker]:
    """Returns the trackers that the configuration asks for, TensorBoard first."""
    names = (["tensorboard"] if config.tensorboard else []) + list(config.trackers)
    return [Tracker(name, folder, config) for name in names]
