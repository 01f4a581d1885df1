"""What a run says while it works: each event goes to metrics.jsonl, to TensorBoard, trackers and
the screen.
"""

import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from experiments import signals
from experiments.files import append
from experiments.runs.ledger import LEDGER
from experiments.runs.progress import Progress
from experiments.runs.resuming import trim
from experiments.runs.run_folder import RunFolder
from experiments.runs.tracking import Scalars, Tracker, scalars

_STARTING = ("waiting for room", "starting actors")
_BEFORE = (*_STARTING, "warm-up", "restoring")
"""Phases in which a run does not count yet."""

Reached = tuple[int | None, int]
"""Round of the checkpoint that a run goes on from, None if there is none, and the newest round of
rollouts in it."""


class Recorder:
    """The `listen` of `cluster.program.train`; a broken disk ends the run, a broken TensorBoard or
    tracker warns.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        tensorboard: bool,
        trackers: Iterable[Tracker] = (),
        reached: Reached | None = None,
    ) -> None:
        """`reached`: what a run that is gone on with goes on from; until it does, its files stay as
        they are.
        """
        self._folder = folder
        self._progress = progress
        self._tensorboard = tensorboard
        self._trackers = tuple(trackers)
        self._start = time.monotonic()
        self._reached = reached
        self._held: list[dict[str, Any]] = []
        """Rows said before a run goes on."""
        self._metrics: TextIO | None = None
        self._ledger: TextIO | None = None
        self._board: Any = None
        if reached is None:
            self._open()
            self._open_board()

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
        for file in filter(None, (self._metrics, self._ledger, self._board)):
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
            and self._folder.state.state == "starting"
            and row.get("phase") not in _STARTING
        ):
            self._folder.update(state="running")
        if event == "dashboard":
            self._folder.update(dashboard=row["url"])
        if event in ("round", "selection", "evaluation"):
            numbers, step = scalars(event, row), int(row.get("round", 0))
            self._draw(numbers, step)
            for tracker in self._trackers:
                tracker.log(numbers, step)
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

    def _open_board(self) -> None:
        self._board = _open_board(self._folder / "tensorboard") if self._tensorboard else None

    def _go_on(self) -> None:
        """Cuts the files of a resumed run to where it goes on, and writes what was said
        meanwhile."""
        if self._reached is None:
            return
        trim(self._folder.path, *self._reached)
        self._reached, held, self._held = None, self._held, []
        self._open()
        self._open_board()
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

    def _draw(self, numbers: Scalars, step: int) -> None:
        if self._board is None:
            return
        try:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            self._board = None
            self("warning", {"message": f"TensorBoard is off: {error}"})


def _begins(event: str, row: dict[str, Any]) -> bool:
    """Whether this shows that all actors are there and the warm-up, or the restoring, is done."""
    if event == "phase":
        return row.get("phase") not in _BEFORE
    return event not in ("warning", "dashboard", "restart")


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    except (ImportError, OSError) as error:
        print(f"warning: TensorBoard is off: {error}", file=sys.stderr)  # noqa: T201
        return None
