"""What a run says while it works: each event goes to metrics.jsonl, to the trackers and the
screen.
"""

import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Self, TextIO

from experiments import signals
from experiments.files import append
from experiments.runs.ledger import LEDGER
from experiments.runs.progress import Progress
from experiments.runs.resuming import trim
from experiments.runs.run_folder import RunFolder
from experiments.runs.tracking import Tracker, scalars

_STARTING = ("waiting for room", "starting actors")
_BEFORE = (*_STARTING, "warm-up", "restoring")
"""Phases in which a run does not count yet."""

Reached = tuple[int | None, int]
"""Round of the checkpoint that a run goes on from, None if there is none, and the newest round of
rollouts in it."""


class Recorder:
    """The `listen` of `cluster.program.train`; a broken disk ends the run, a broken tracker is a
    warning.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        trackers: Iterable[Tracker] = (),
        reached: Reached | None = None,
    ) -> None:
        """`reached`: what a run that is gone on with goes on from; until it does, its files stay as
        they are.
        """
        self._folder = folder
        self._progress = progress
        self._trackers = tuple(trackers)
        self._start = time.monotonic()
        self._reached = reached
        self._held: list[dict[str, Any]] = []
        """Rows said before a run goes on."""
        self._metrics: TextIO | None = None
        self._ledger: TextIO | None = None
        if reached is None:
            self._open()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        for tracker in self._trackers:
            tracker.close("finished" if error is None else "stopped" if stopped else "failed")
        self._warn()
        self._progress.stop()
        for file in filter(None, (self._metrics, self._ledger)):
            with (
                suppress(OSError) if error is not None else nullcontext()
            ):  # nothing hides the first cause
                file.close()

    def __call__(self, event: str, row: dict[str, Any]) -> None:
        """Take one event; called on the driver."""
        signals.install()
        elapsed = round(time.monotonic() - self._start, 3)
        if _begins(event, row):
            self._folder.begin()
            self._go_on()
        if event == "update":
            self._append_update(row)
            return
        if event == "restart":  # what came after the checkpoint will be said again
            self._go_back((row["round"] or None, row["newest_round"]))
        self._append({"event": event, "elapsed": elapsed, **row})
        if (
            event == "phase"
            and self._folder.state.get("state") == "starting"
            and row.get("phase") not in _STARTING
        ):
            self._folder.update(state="running")
        if event == "dashboard":
            self._folder.update(dashboard=row["url"])
        if event in ("round", "selection", "evaluation"):
            for tracker in self._trackers:
                tracker.log(scalars(event, row), int(row.get("round", 0)))
        self._progress.show(event, row)
        if event != "warning":
            self._warn()

    def _warn(self) -> None:
        for tracker in self._trackers:
            if (trouble := tracker.trouble()) is not None:
                self("warning", {"message": trouble})

    def _open(self) -> None:
        self._metrics = (self._folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._ledger = (self._folder / LEDGER).open("a", encoding="utf-8")

    def _close(self) -> None:
        for file in (self._metrics, self._ledger):
            if file is not None:
                file.close()

    def _go_on(self) -> None:
        """Cuts the files of a resumed run to where it goes on, and writes what was said
        meanwhile."""
        if self._reached is None:
            return
        trim(self._folder.path, *self._reached)
        self._reached, held, self._held = None, self._held, []
        self._open()
        for row in held:
            self._append(row)

    def _go_back(self, reached: Reached) -> None:
        if self._reached is not None:  # it had not gone on
            self._reached = reached
            return
        self._close()
        trim(self._folder.path, *reached)
        self._open()

    def _append(self, row: dict[str, Any]) -> None:
        if self._metrics is None:
            self._held.append(row)
        else:
            append(self._metrics, row)

    def _append_update(self, row: dict[str, Any]) -> None:
        assert self._ledger is not None
        append(self._ledger, row, synced=True)


def _begins(event: str, row: dict[str, Any]) -> bool:
    """Whether this shows that all actors are there and the warm-up, or the restoring, is done."""
    if event == "phase":
        return row.get("phase") not in _BEFORE
    return event not in ("warning", "dashboard", "restart")
