"""What a run says while it works: each event goes to metrics.jsonl, to the trackers and the
screen.
"""

import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from pydantic import ConfigDict

from experiments import signals
from experiments.files import append
from experiments.runs.ledger import LEDGER
from experiments.runs.progress import Progress
from experiments.runs.resuming import trim
from experiments.runs.run_folder import RunFolder
from experiments.runs.tracking import Tracker, scalars
from learner import events
from learner.events import Event

_STARTING = ("waiting for room", "starting actors")
_BEFORE = (*_STARTING, "warm-up", "restoring")
"""Phases in which a run does not count yet."""


class Watched(Protocol):
    """Whatever works beside a run and never holds it up."""

    def trouble(self) -> str | None:
        """Returns a line that a person should know, once."""


Reached = tuple[int | None, int]
"""Round of the checkpoint that a run goes on from, None if there is none, and the newest round of
rollouts in it."""


class Judged(Event):
    """The judge has compared the policy with the untouched model; holds the figures of both."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name = "evaluation"
    round: int
    final: bool


class Recorder:
    """The `emit` of `cluster.program.train`: a broken disk ends the run, a broken tracker warns."""

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        trackers: Iterable[Tracker] = (),
        reached: Reached | None = None,
        beside: Iterable[Watched] = (),
    ) -> None:
        """`reached`: what a run that is gone on with goes on from; until it does, its files stay as
        they are. `beside`: what may have something to say, too, besides the trackers.
        """
        self._folder = folder
        self._progress = progress
        self._trackers = tuple(trackers)
        self._watched: tuple[Watched, ...] = (*self._trackers, *beside)
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

    def __call__(self, event: Event) -> None:
        """Takes one event; called on the driver."""
        signals.install()
        elapsed = round(time.monotonic() - self._start, 3)
        if _begins(event):
            self._folder.begin()
            self._resume()
        if isinstance(event, events.Update):
            self._append_update(event.row())
            return
        if isinstance(event, events.Restart):  # later rounds than the checkpoint's are told again
            self._go_back((event.round or None, event.newest_round))
        self._append({"event": event.name, "elapsed": elapsed, **event.row()})
        self._update_state(event)
        if isinstance(event, events.Round | events.Selection | Judged):
            for tracker in self._trackers:
                tracker.log(scalars(event.name, event.row()), event.round)
        self._progress.show(event)
        if not isinstance(event, events.Warning):
            self._warn()

    def _update_state(self, event: Event) -> None:
        if isinstance(event, events.Dashboard):
            self._folder.update(dashboard=event.url)
        starting = self._folder.state.state == "starting"
        if isinstance(event, events.Phase) and starting and event.phase not in _STARTING:
            self._folder.update(state="running")

    def _warn(self) -> None:
        for watched in self._watched:
            if (trouble := watched.trouble()) is not None:
                self(events.Warning(message=trouble))

    def _open(self) -> None:
        self._metrics = (self._folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._ledger = (self._folder / LEDGER).open("a", encoding="utf-8")

    def _close(self) -> None:
        for file in (self._metrics, self._ledger):
            if file is not None:
                file.close()

    def _resume(self) -> None:
        """Cuts the files of a resumed run to where it resumes, and writes the rows held back."""
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


def _begins(event: Event) -> bool:
    """Whether this shows that all actors are there and the warm-up, or the restoring, is done."""
    if isinstance(event, events.Phase):
        return event.phase not in _BEFORE
    before = events.Warning | events.Dashboard | events.Restart | events.WarmingUp
    return not isinstance(event, before)
