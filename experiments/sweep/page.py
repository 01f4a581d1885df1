"""The page of a sweep: what was varied, the table, the trade-off with its front, the curves, and
what each trial draws; made from the folder alone, at any time.
"""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments import COMMAND, settings
from experiments.evaluation.headline import HEADLINE
from experiments.files import write_text
from experiments.report import charts, tiles
from experiments.report.differences import differences, shown
from experiments.report.page import render
from experiments.report.run_view import LEVEL
from experiments.sweep import table
from experiments.sweep.folder import SweepFolder
from experiments.sweep.front import front
from experiments.sweep.pictures import MOST_PANELS, mean_curve
from experiments.sweep.space import Space
from experiments.sweep.space_file import read
from experiments.sweep.table import FORGOTTEN, Row, Trial

NAME = "report.html"
MOST_SAMPLES = 24
"""Trials whose samples are shown: a page must still open."""
MOST_NAMED = 16
"""Settings of the trade-off that are all numbered; of more, those on the front."""
_FIGURES = dict(zip(table.FIGURES, table.HEADINGS, strict=True))
_JOINED = {"uniform": "anything from", "loguniform": "evenly by magnitude from"}


@dataclass(frozen=True)
class Varied:
    """A line of what was varied."""

    name: str
    how: str


@dataclass(frozen=True)
class Shown:
    """A trial with its place in the table, and what it draws of what is to be forgotten."""

    trial: Trial
    number: int
    link: str
    """To its own report, from the page; empty if it has none."""
    rows: list[tiles.Row]


def write_page(folder: SweepFolder, out: Path | None = None) -> Path:
    """Writes the page, by default into the sweep's folder; ConfigError if that holds no sweep,
    DataError, which names the file, if a trial is damaged.
    """
    folder.check_resumable()
    out = out or folder.path / NAME
    base = settings.recorded(folder.base)
    space = read(folder.space, base)
    rows = table.rows(table.read_trials(folder.path))
    members = front(rows)
    trials = [(trial, number) for number, row in enumerate(rows, 1) for trial in row.trials]
    name, parent = folder.path.resolve().name, folder.path.parent
    resumed = ["sweep", "--resume", "--name", name, f"output={parent}"]
    content = {
        "title": f"Sweep “{name}”",
        "model": base.model.path,
        "concept": "" if "concept" in space.keys else base.concept,
        "space": space,
        "varied": varied(space),
        "rows": rows,
        "front": [row.label for row in members],
        "on_front": lambda row: _among(row, members),
        "figures": {k: h for k, h in _FIGURES.items() if any(k in row.means for row in rows)},
        "headline": HEADLINE,
        "parts": parts,
        "states": states([trial for trial, _ in trials], space.trials),
        "finished": sum(trial.finished for trial, _ in trials),
        "forgotten": FORGOTTEN,
        "trade_off": trade_off(rows, members),
        "curves": curves(rows),
        "most_panels": MOST_PANELS,
        "trials": [Shown(trial, number, _link(trial, out), []) for trial, number in trials],
        "samples": _samples(rows, members, out),
        "one_line": table.one_line,
        "base": [row for row in differences([base]) if row[0] not in space.keys],
        "files": {
            "What varies": folder.space.read_text(encoding="utf-8"),
            "The configuration that all trials share": settings.dump(base),
        },
        "again": shlex.join([*COMMAND, *resumed]),
    }
    write_text(out, render("sweep.html.j2", content, [Path(__file__).parent]))
    return out


def parts(row: Row, key: str) -> tuple[str, str]:
    """Returns a figure's mean, and what stands beneath it: its interval, and of how many trials
    where some lack it.
    """
    if key not in row.means:
        return "–", ""
    average = row.means[key]
    value, _, half = average.text(table.digits(key)).partition(" ± ")
    some = f"{average.n} of {len(row.finished)}" if average.n < len(row.finished) else ""
    beneath = ", ".join(filter(None, (half and f"± {half}", some)))
    return value.replace("-", "−"), beneath


def varied(space: Space) -> list[Varied]:
    """Returns what a space file varies, in words."""
    lines = [
        Varied(
            mix.name or "together", ", ".join(f"{k} {shown(v)}" for k, v in mix.settings.items())
        )
        for mix in space.mixes
    ]
    for key, values in {**space.lists, **space.choices}.items():
        lines.append(Varied(key, ", ".join(shown(_whole(value)) for value in values)))
    for key, draw in space.ranges.items():
        low, high = draw.arguments
        words = _JOINED.get(draw.kind, "any whole number from")
        last = high - 1 if draw.kind == "randint" else high
        lines.append(Varied(key, f"{words} {shown(low)} to {shown(last)}"))
    return lines


def _whole(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def states(trials: Sequence[Trial], asked: int) -> list[str]:
    """Returns how many trials are in which state, in words; `asked`: how many there will be."""
    counts = Counter(
        "finished" if trial.finished
        else "finished, but not judged" if trial.state == "finished"
        else trial.state if trial.state in ("failed", "stopped")
        else "begun, without an end so far"
        for trial in trials
    )  # fmt: skip
    counts["not begun"] = max(0, asked - len(trials))
    return [f"{count} {state}" for state, count in counts.items() if count]


def trade_off(rows: Sequence[Row], members: Sequence[Row]) -> tuple[charts.Scatter, str] | None:
    """Returns the chart of mean UA against the mean of IRA and CRA with the path of its front, None
    where all settings are at the same place.
    """
    numbered = [(number, row) for number, row in enumerate(rows, 1) if row.means]
    across = [row.means["ua"].value for _, row in numbered]
    up = [row.kept for _, row in numbered]
    if len(numbered) < 2 or max(_width(across), _width(up)) < LEVEL:
        return None
    # The front is drawn last, over what it beats.
    numbered.sort(key=lambda pair: _among(pair[1], members))
    points = []
    for number, row in numbered:
        on_front = _among(row, members)
        ua, half, beside = row.means["ua"].value, row.means["ua"].half or 0.0, table.half_kept(row)
        points.append(
            (
                str(number) if on_front or len(numbered) <= MOST_NAMED else "",
                2 if on_front else 0,
                charts.Span(ua, ua - half, ua + half),
                charts.Span(row.kept, row.kept - beside, row.kept + beside),
            )
        )
    chart = charts.scatter(points, _limits(across), _limits(up))
    marks = [
        replace(mark, words=f"{number}, {row.label}: {row.means['ua'].value:.1f}, {row.kept:.1f}")
        for mark, (number, row) in zip(chart.marks, numbered, strict=True)
    ]
    path = [
        f"{mark.x},{mark.y}"
        for member in members
        for mark, (_, row) in zip(marks, numbered, strict=True)
        if row is member
    ]
    return replace(chart, marks=marks), " ".join(path)


def _among(row: Row, members: Sequence[Row]) -> bool:
    """Returns whether it is one of them; two settings may have the same figures."""
    return any(row is member for member in members)


def _width(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns a range close around percentages: a wide interval over two seeds would squeeze all
    else.
    """
    room = max(1.0, 0.12 * _width(values))
    low, high = max(-1.0, min(values) - room), min(101.0, max(values) + room)
    return (low, high) if low < high else charts.PERCENT  # no percentages at all


def curves(rows: Sequence[Row]) -> list[charts.Chart]:
    """Returns a panel for each setting: its trials, and pale behind them the means of all other
    settings.
    """
    told = [row for row in rows if any(trial.curve for trial in row.trials)]
    means = [mean_curve(row) for row in told]
    last = max((x for mean in means for x, _ in mean), default=0.0)
    panels = []
    for i, row in enumerate(told[:MOST_PANELS]):
        lines = [
            charts.Curve(
                f"seed {trial.settings['seed']}" if "seed" in trial.settings else "one trial",
                1 if trial.finished else 2,
                0 if trial.finished else 1,
                list(trial.curve),
            )
            for trial in row.trials
            if trial.curve
        ]
        panels.append(
            charts.line_chart(
                row.label, "share forgotten, by the selection CLIP", "images", lines, (0, 1),
                (FORGOTTEN, ""), (0, last), [mean for j, mean in enumerate(means) if j != i],
            )
        )  # fmt: skip
    return [panel for panel in panels if panel is not None]


def _samples(rows: Sequence[Row], members: Sequence[Row], out: Path) -> tuple[list[Shown], int]:
    """Returns the trials whose samples are shown, the front's first, and how many others have
    some.
    """
    order = [
        (number, row)
        for wanted in (True, False)
        for number, row in enumerate(rows, 1)
        if _among(row, members) == wanted
    ]
    found: list[Shown] = []
    others = 0
    for number, row in order:
        for trial in row.trials:
            if len(found) == MOST_SAMPLES:
                others += tiles.read_sheet(trial.path) is not None
                continue
            drawn = [line for line in tiles.read(trial.path) if line.target]
            if drawn:
                found.append(Shown(trial, number, _link(trial, out), drawn))
    return found, others


def _link(trial: Trial, out: Path) -> str:
    report = trial.path / NAME
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report, out.parent)).as_posix())
