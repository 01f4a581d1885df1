"""Progress on stderr: one live view on a terminal, one line for each round elsewhere."""

import time
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from experiments.console import say

MEASURES = (
    ("reward", "reward", "{:+.2f}"),
    ("forget_rate", "forgotten", "{:.0%}"),
    ("kl", "KL nats/step", "{:.3f}"),
    ("ratio_max", "max ratio", "{:.3f}"),
    ("ess", "ESS", "{:.2f}"),
    ("policy_lag", "policy lag", "{:.1f}"),
    ("images_per_second", "images/s", "{:.1f}"),
)


class Progress(Protocol):
    """Shows events of a run."""

    def start(self) -> None:
        """Takes the screen."""

    def stop(self) -> None:
        """Gives the screen back."""

    def show(self, event: str, row: dict[str, Any]) -> None:
        """Takes one event."""


def make_progress(console: Console) -> Progress:
    """Returns a live view if somebody can watch it, else plain lines."""
    return LiveView(console) if console.is_terminal else Lines(console)


def measures(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns label and text of each headline number that the row holds.

    A per-step list shows its mean.
    """
    shown = []
    for key, label, form in MEASURES:
        value = row.get(key)
        if isinstance(value, list | tuple):
            numbers = [v for v in value if isinstance(v, int | float)]
            value = sum(numbers) / len(numbers) if numbers else None
        if isinstance(value, int | float):
            shown.append((label, form.format(value)))
    return shown


def selection_text(row: dict[str, Any]) -> str:
    """Returns a line on one look at the policy by the selection CLIP."""
    parts = [
        f"{key} {row[key]:.3g}"
        for key in ("score", "forgotten", "retained", "coherence")
        if key in row
    ]
    best = (
        " (best so far)"
        if row.get("best")
        else ""
        if row.get("allowed", True)
        else " (lost more than may be lost)"
    )
    return f"look at version {row.get('policy_version', '?')}: {', '.join(parts)}{best}"


class Eta:
    """The time left, by the mean round so far."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None

    def text(self, row: dict[str, Any]) -> str:
        """Returns minutes and seconds until the last round, or nothing before there is a mean."""
        done, total = row.get("round"), row.get("rounds")
        if not isinstance(done, int) or not isinstance(total, int):
            return ""
        if self._first is None:
            self._first, self._start = done, time.monotonic()
            return ""
        left = (time.monotonic() - self._start) / max(1, done - self._first) * max(0, total - done)
        return f"{int(left) // 60}:{int(left) % 60:02d}"


class Lines:
    """A line for each event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._eta = Eta()

    def start(self) -> None:
        """Does nothing: lines take no screen."""

    def stop(self) -> None:
        """Does nothing: lines took no screen."""

    def show(self, event: str, row: dict[str, Any]) -> None:
        """Prints one line."""
        if event == "phase":
            self._print(str(row.get("phase", "")))
        elif event == "dashboard":
            self._print(f"dashboard: {row['url']}")
        elif event in ("warning", "restart"):
            self._print(f"warning: {row.get('message', '')}")
        elif event == "selection":
            self._print(selection_text(row))
        elif event == "round":
            numbers = "  ".join(f"{label} {text}" for label, text in measures(row))
            eta = self._eta.text(row)
            self._print(
                f"round {row.get('round', '?')}/{row.get('rounds', '?')}  "
                f"{numbers}{f'  ETA {eta}' if eta else ''}"
            )

    def _print(self, text: str) -> None:
        say(self._console, text)


class LiveView:
    """A view of phase, bar and headline numbers, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}"),
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None, eta="-")
        self._eta = Eta()
        self._row: dict[str, Any] = {}
        self._look = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def start(self) -> None:
        """Takes the screen."""
        self._live.start()

    def stop(self) -> None:
        """Leaves the last picture standing."""
        self._live.stop()

    def show(self, event: str, row: dict[str, Any]) -> None:
        """Redraws with the new numbers."""
        if event == "phase":
            self._bar.update(self._task, description=str(row.get("phase", "")))
        elif event == "dashboard":
            self._console.print(f"dashboard: {row['url']}", markup=False)
        elif event in ("warning", "restart"):
            self._console.print(f"warning: {row.get('message', '')}", markup=False)
        elif event == "selection":
            self._look = selection_text(row)
        elif event == "round":
            self._row = row
            eta = self._eta.text(row) or "-"
            self._bar.update(
                self._task, completed=row.get("round", 0), total=row.get("rounds"), eta=eta
            )

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        shown = measures(self._row)
        table.add_row(*(Text(label, style="dim") for label, _ in shown))
        table.add_row(*(Text(text) for _, text in shown))
        return Group(self._bar, table, Text(self._look, style="dim"))
