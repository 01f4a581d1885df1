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
from learner import events
from learner.events import Event

FIGURES = (
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

    def show(self, event: Event) -> None:
        """Takes one event."""


def make_progress(console: Console) -> Progress:
    """Returns a live view if somebody can watch it, else plain lines."""
    return LiveView(console) if console.is_terminal else Lines(console)


def figures(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns label and text of each headline number that the row holds.

    A per-step list shows its mean.
    """
    shown = []
    for key, label, form in FIGURES:
        value = row.get(key)
        if isinstance(value, list | tuple):
            numbers = [v for v in value if isinstance(v, int | float)]
            value = sum(numbers) / len(numbers) if numbers else None
        if isinstance(value, int | float):
            shown.append((label, form.format(value)))
    return shown


def selection_text(event: events.Selection) -> str:
    """Returns what the selection CLIP saw of a version, in one line."""
    shares = ("score", "forgotten", "retained", "coherence")
    numbers = ", ".join(f"{name} {getattr(event, name):.3g}" for name in shares)
    remark = " (best so far)" if event.best else ""
    if not event.allowed:
        remark = " (lost more than may be lost)"
    return f"version {event.policy_version}: {numbers}{remark}"


class Eta:
    """The time left of what is at work, by the mean of what is done of it so far."""

    def __init__(self) -> None:
        self._work = ""
        self._first, self._start = 0, 0.0

    def text(self, work: str, done: int, total: int) -> str:
        """Returns minutes and seconds until all is done, or nothing before there is a mean."""
        if work != self._work:
            self._work, self._first, self._start = work, done, time.monotonic()
        if done == self._first:
            return ""
        left = (time.monotonic() - self._start) / (done - self._first) * max(0, total - done)
        return f"{int(left) // 60}:{int(left) % 60:02d}"


class Lines:
    """A line for each event, for logs and pipes; of the warm-up's many, one for each tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._eta = Eta()
        self._tenth = ("", 0)

    def start(self) -> None:
        """Does nothing: lines take no screen."""

    def stop(self) -> None:
        """Does nothing: lines took no screen."""

    def show(self, event: Event) -> None:
        """Prints one line."""
        if isinstance(event, events.Phase):
            self._print(event.phase)
        elif isinstance(event, events.Dashboard):
            self._print(f"dashboard: {event.url}")
        elif isinstance(event, events.Warning | events.Restart):
            self._print(f"warning: {event.message}")
        elif isinstance(event, events.Selection):
            self._print(selection_text(event))
        elif isinstance(event, events.WarmingUp):
            eta = self._eta.text(event.step, event.done, event.total)
            tenth = (event.step, 10 * event.done // event.total)
            if tenth != self._tenth:
                self._tenth = tenth
                work = f"warm-up, {event.step}: {event.done}/{event.total}"
                self._print(f"{work}{f'  ETA {eta}' if eta else ''}")
        elif isinstance(event, events.Round):
            numbers = "  ".join(f"{label} {text}" for label, text in figures(event.row()))
            eta = self._eta.text("rounds", event.round, event.rounds)
            self._print(
                f"round {event.round}/{event.rounds}  {numbers}{f'  ETA {eta}' if eta else ''}"
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
        self._selection = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def start(self) -> None:
        """Takes the screen."""
        self._live.start()

    def stop(self) -> None:
        """Leaves the last picture standing."""
        self._live.stop()

    def show(self, event: Event) -> None:
        """Redraws with the new numbers."""
        if isinstance(event, events.Phase):
            task = self._bar.tasks[self._task]
            task.completed, task.total = 0, None  # the warm-up's bar is not that of the rounds
            self._bar.update(self._task, description=event.phase, eta="-")
        elif isinstance(event, events.Dashboard):
            self._console.print(f"dashboard: {event.url}", markup=False)
        elif isinstance(event, events.Warning | events.Restart):
            self._console.print(f"warning: {event.message}", markup=False)
        elif isinstance(event, events.Selection):
            self._selection = selection_text(event)
        elif isinstance(event, events.WarmingUp):
            self._advance(event.step, event.done, event.total)
            self._bar.update(self._task, description=f"warm-up, {event.step}")
        elif isinstance(event, events.Round):
            self._row = event.row()
            self._advance("rounds", event.round, event.rounds)

    def _advance(self, work: str, done: int, total: int) -> None:
        eta = self._eta.text(work, done, total) or "-"
        self._bar.update(self._task, completed=done, total=total, eta=eta)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        shown = figures(self._row)
        table.add_row(*(Text(label, style="dim") for label, _ in shown))
        table.add_row(*(Text(text) for _, text in shown))
        return Group(self._bar, table, Text(self._selection, style="dim"))
