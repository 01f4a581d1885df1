"""The two pictures of a sweep: the trade-off with its front, and how fast each setting forgets."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.report.png import BLUE, GREY, ORANGE, new_figure, open_axes, to_png
from experiments.sweep.table import FORGOTTEN, Row, half_kept

MOST_PANELS = 48
MOST_NAMES = 12
_COLUMNS = 4
_PALE = "#C8C8C8"


def draw_front(rows: Sequence[Row], members: Sequence[Row], title: str) -> bytes:
    """Returns a PNG of UA against the mean of IRA and CRA; bars are 95 % t-intervals over seeds."""
    figure = new_figure(8.6, 6.0)
    axes = figure.subplots()
    open_axes(axes)
    for row in [row for row in rows if row.means]:
        on_front = any(row is member for member in members)
        colour = ORANGE if on_front else GREY
        for trial in row.finished if len(row.finished) > 1 else ():
            kept = (trial.figures["ira"] + trial.figures["cra"]) / 2
            axes.plot(
                kept, trial.figures["ua"], ".", color=colour, alpha=0.35, markersize=5, zorder=1
            )
        half = row.means["ua"].half or 0.0
        axes.errorbar(
            row.kept,
            row.means["ua"].value,
            xerr=half_kept(row),
            yerr=half,
            fmt="D" if on_front else "o",
            color=colour,
            markersize=8 if on_front else 6,
            linewidth=1,
            capsize=2,
            zorder=3 if on_front else 2,
        )
    line = [(row.kept, row.means["ua"].value) for row in members]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), "-", color=ORANGE, linewidth=1.2, zorder=1)
    _limits(axes, rows)
    _names(axes, rows if len(rows) <= MOST_NAMES else members, members)
    axes.set_xlabel("kept: mean of IRA and CRA (%)")
    axes.set_ylabel("forgotten: UA (%)")
    axes.set_title(
        f"{title}: the judges' trade-off of {sum(bool(row.means) for row in rows)} settings",
        loc="left",
    )
    handles = [
        axes.plot([], [], "D-", color=ORANGE, label="on the front")[0],
        axes.plot([], [], "o", color=GREY, label="beaten by one on it")[0],
    ]
    axes.legend(handles=handles, frameon=False, loc="best", fontsize=9)
    return to_png(figure, dpi=120)


def draw_curves(rows: Sequence[Row], title: str) -> bytes:
    """Returns a PNG with a panel for each setting: its seeds thin, their mean thick, all other
    settings pale behind.
    """
    shown = [row for row in rows if any(trial.curve for trial in row.trials)][:MOST_PANELS]
    columns = max(1, min(_COLUMNS, len(shown)))
    lines = max(1, math.ceil(len(shown) / columns))
    figure = new_figure(max(5.0, 3.1 * columns), 2.4 * lines + 0.9)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    means = [mean_curve(row) for row in shown]
    for i, axes in enumerate(grid):
        open_axes(axes)
        if i >= len(shown):
            axes.set_axis_off()
            continue
        for other in (m for j, m in enumerate(means) if j != i):
            axes.plot(*zip(*other, strict=True), color=_PALE, linewidth=0.8, zorder=0)
        axes.axhline(FORGOTTEN, color=GREY, linewidth=0.8, linestyle=":")
        for trial in shown[i].trials:
            if trial.curve:
                done = trial.state == "finished"
                style = "-" if done else "--"
                axes.plot(
                    *zip(*trial.curve, strict=True),
                    style,
                    color=BLUE if done else ORANGE,
                    linewidth=0.8,
                )
        if len(shown[i].finished) > 1:
            axes.plot(*zip(*means[i], strict=True), color=BLUE, linewidth=2.4)
        axes.set_title(_short(shown[i].label, 34), fontsize=9, loc="left")
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(_few_ticks())
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    hidden = sum(any(trial.curve for trial in row.trials) for row in rows) - len(shown)
    more = f"; {hidden} more settings in table.md" if hidden else ""
    figure.suptitle(
        f"{title}: share of the concept's images that the selection CLIP finds forgotten{more}",
        fontsize=10,
    )
    figure.supxlabel(
        "images generated   (thin: one seed, thick: their mean, dashed: no result, dotted: "
        f"{FORGOTTEN:g})",
        fontsize=9,
    )
    figure.supylabel("forgotten (0 to 1)", fontsize=9)
    return to_png(figure, dpi=120)


def mean_curve(row: Row) -> list[tuple[float, float]]:
    """Returns the mean over the trials that were validated, step by step, as long as the
    longest."""
    curves = [trial.curve for trial in (row.finished or row.trials) if trial.curve]
    points = []
    for i in range(max(len(curve) for curve in curves)):
        places = [curve[i] for curve in curves if i < len(curve)]
        points.append(
            (sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places))
        )
    return points


def _limits(axes: Any, rows: Sequence[Row]) -> None:
    """Ends the axes close around means and trials.

    A wide interval over two seeds would squeeze all else.
    """
    judged = [trial for row in rows for trial in row.finished]
    if not judged:
        return
    for values, axis, set_limits in (
        ([(t.figures["ira"] + t.figures["cra"]) / 2 for t in judged], axes.xaxis, axes.set_xlim),
        ([t.figures["ua"] for t in judged], axes.yaxis, axes.set_ylim),
    ):
        room = max(2.0, 0.12 * (max(values) - min(values)))
        low, high = max(-1.5, min(values) - room), min(101.5, max(values) + room)
        if low >= high:  # no percentages at all
            continue
        ticks = axis.get_major_locator().tick_values(low, high)
        axis.set_ticks(
            [tick for tick in ticks if 0 <= tick <= 100]
        )  # there is room beyond, but nothing in it
        set_limits(low, high)


def _names(axes: Any, named: Sequence[Row], members: Sequence[Row]) -> None:
    """Writes a label beside each point, with a thin line to it, at the first place around it that
    is still free.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    points = [row for row in named if row.means]

    def share(row: Row) -> tuple[float, float]:
        return (row.kept - left) / (right - left), (row.means["ua"].value - low) / (high - low)

    taken = [(x - 0.015, y - 0.02, x + 0.015, y + 0.02) for x, y in map(share, points)]
    for row in sorted(points, key=lambda row: not any(row is member for member in members)):
        text, (x, y) = _short(row.label, 40), share(row)
        width, height = 0.0105 * len(text), 0.034
        places = [
            (x + (near if side > 0 else -near - width), y + up - height / 2)
            for near in (0.03, 0.07, 0.12)
            for up in (0.035, -0.035, 0.075, -0.075, 0.12, -0.12)
            for side in ((-1, 1) if x > 0.5 else (1, -1))
        ]
        boxes = [(px, py, px + width, py + height) for px, py in places]
        inside = [
            box for box in boxes if box[0] > 0 and box[1] > 0 and box[2] < 1 and box[3] < 1
        ] or boxes
        box = next(
            (box for box in inside if not any(_overlap(box, other) for other in taken)), inside[0]
        )
        taken.append(box)
        colour = "black" if any(row is member for member in members) else GREY
        axes.annotate(
            text,
            (row.kept, row.means["ua"].value),
            (box[0] + width / 2, box[1] + height / 2),
            textcoords="axes fraction",
            fontsize=8,
            ha="center",
            va="center",
            color=colour,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 4,
            },
        )


_Box = tuple[float, float, float, float]


def _overlap(box: _Box, other: _Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
