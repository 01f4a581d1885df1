"""What a run says while it works: each event goes to metrics.jsonl, to TensorBoard, trackers and the screen."""

import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from experiments import signals
from experiments.files import append
from experiments.ledger import LEDGER
from experiments.progress import Progress
from experiments.resuming import trim
from experiments.run_folder import RunFolder
from experiments.tracking import Scalars, Tracker, scalars

_STARTING = ("waiting for room", "starting actors")


class Recorder:
    """The `listen` of `cluster.program.train`; a broken disk ends the run, a broken TensorBoard or tracker warns."""

    def __init__(
        self, folder: RunFolder, progress: Progress, tensorboard: bool, trackers: Iterable[Tracker] = ()
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._metrics, self._ledger = self._open()
        self._board = _open_board(folder / "tensorboard") if tensorboard else None
        self._trackers = tuple(trackers)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        for tracker in self._trackers:
            tracker.close("finished" if error is None else "stopped" if stopped else "failed")
        self._warn()
        self._progress.stop()
        for file in filter(None, (self._metrics, self._ledger, self._board)):
            with suppress(OSError) if error is not None else nullcontext():  # nothing hides the first cause
                file.close()

    def __call__(self, event: str, row: dict[str, Any]) -> None:
        """Take one event; called on the driver."""
        signals.install()
        elapsed = round(time.monotonic() - self._start, 3)
        if event == "update":
            append(self._ledger, row, synced=True)
            return
        if event == "restart":  # what came after the checkpoint will be said again
            self._metrics.close()
            self._ledger.close()
            trim(self._folder.path, row["round"] or None, row["newest_round"])
            self._metrics, self._ledger = self._open()
        append(self._metrics, {"event": event, "elapsed": elapsed, **row})
        if event == "phase" and self._folder.state.get("state") == "starting" and row.get("phase") not in _STARTING:
            self._folder.update(state="running")
        if event == "warm-up":
            self._folder.begin()
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

    def _open(self) -> tuple[TextIO, TextIO]:
        return (self._folder / "metrics.jsonl").open("a", encoding="utf-8"), (self._folder / LEDGER).open("a")

    def _draw(self, numbers: Scalars, step: int) -> None:
        if self._board is None:
            return
        try:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            self._board = None
            self("warning", {"message": f"TensorBoard is off: {error}"})


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    except (ImportError, OSError) as error:
        print(f"warning: TensorBoard is off: {error}", file=sys.stderr)  # noqa: T201
        return None
