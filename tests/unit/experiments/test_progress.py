"""What the screen and the log say while a run works."""

import re
from types import SimpleNamespace

import pytest
import tiny
from rich.console import Console

from experiments.runs import progress
from experiments.runs.progress import Lines, LiveView
from learner.events import Event, Phase, WarmingUp


def warming_up(done: int, step: str = "drawing", total: int = 40) -> WarmingUp:
    return WarmingUp(step=step, done=done, total=total)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is asked."""
    seconds = iter(range(1_000))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


def screen(events: list[Event]) -> str:
    console = Console(record=True, width=120)
    view = LiveView(console)
    for event in events:
        view.show(event)
    console.print(view._render())
    return console.export_text()


def test_the_warm_up_has_a_bar_and_a_time_left() -> None:
    shown = screen([Phase(phase="warm-up"), warming_up(8), warming_up(16)])
    assert re.search(r"warm-up, drawing .*16/40 .*ETA 0:03", shown)
    # A step of its own has a mean of its own.
    shown = screen([warming_up(8), warming_up(16), warming_up(1, "fitting the critic", 5)])
    assert re.search(r"warm-up, fitting the critic .*1/5 .*ETA -", shown)


def test_the_rounds_do_not_go_on_with_the_bar_of_the_warm_up() -> None:
    shown = screen([warming_up(40), Phase(phase="training, cat -> dog")])
    assert "training, cat -> dog" in shown
    assert "40/40" not in shown
    assert re.search(r"2/9 .*ETA 0:07", screen([tiny.round_event(1), tiny.round_event(2)]))


def test_a_log_has_a_line_for_each_tenth_of_the_warm_up() -> None:
    console = Console(record=True, width=120)
    lines = Lines(console)
    for done in range(1, 201):
        lines.show(warming_up(done, total=200))
    said = console.export_text().splitlines()
    assert len(said) == 11
    assert said[-1].startswith("warm-up, drawing: 200/200")
    assert said[5].endswith("100/200  ETA 1:40")
