"""Charts as geometry: lines, points and cells in the units of a view box, for the template to draw
as SVG.

Colours, dashes and fonts belong to the style sheet, so that dark mode and print change them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from experiments.report.figures import drawable

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve: `path` and `dots` in view-box units, `hue` and `dash` as numbers of the style
    sheet."""

    label: str
    hue: int
    dash: int
    path: str
    dots: Points


@dataclass(frozen=True)
class Chart:
    """Curves with axes; `words` says the same in a sentence."""

    title: str
    unit: str
    x_label: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    limit: tuple[float, str] | None
    words: str
    behind: list[str]
    """Paths of what is only there to compare with."""


@dataclass(frozen=True)
class Curve:
    """A curve before it has a place: label, style numbers and data."""

    label: str
    hue: int
    dash: int
    points: Points


def line_chart(
    title: str,
    unit: str,
    x_label: str,
    curves: Sequence[Curve],
    span: tuple[float, float] | None = None,
    limit: tuple[float, str] | None = None,
    width: tuple[float, float] | None = None,
    behind: Sequence[Points] = (),
) -> Chart | None:
    """Returns a chart of the curves that have points, None if none has; `span` fixes the y axis and
    `width` the x axis, `limit` is a marked level, `behind` are further curves, pale and nameless.
    """
    curves = [
        Curve(c.label, c.hue, c.dash, [p for p in c.points if None not in map(drawable, p)])
        for c in curves
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + ([limit[0]] if limit else [])
    left, right = width or (min(xs), max(xs))
    x_ticks, y_ticks = ticks(left, right, 5), ticks(*(span or (min(ys), max(ys))), 5)
    x_low, x_high = _wide(left, right)
    y_low, y_high = _wide(*(span or (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))))

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    def path(points: Points) -> str:
        return " ".join(f"{across(x)},{up(y)}" for x, y in points)

    lines = []
    for curve in curves:
        few = len(curve.points) <= 40
        dots = [(across(x), up(y)) for x, y in curve.points] if few else []
        lines.append(Line(curve.label, curve.hue, curve.dash, path(curve.points), dots))
    return Chart(
        title,
        unit,
        x_label,
        lines,
        [(across(x), number(x)) for x in x_ticks if x_low <= x <= x_high],
        [(up(y), number(y)) for y in y_ticks if y_low <= y <= y_high],
        (up(limit[0]), limit[1]) if limit else None,
        f"{title}, {unit}, by {x_label}. " + " ".join(_told(curve) for curve in curves),
        [path(points) for points in behind],
    )


def _wide(low: float, high: float) -> tuple[float, float]:
    """Returns the range, never an empty one, however large its numbers are."""
    return low, max(high, low + 1e-9 * max(1.0, abs(low)))


def _told(curve: Curve) -> str:
    (x, first), (end, last) = curve.points[0], curve.points[-1]
    return f"{curve.label}: {number(first)} at {number(x)}, {number(last)} at {number(end)}."


def ticks(low: float, high: float, count: int) -> list[float]:
    """Returns round numbers around a range."""
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - max(0.5, abs(low) / 10), high + max(0.5, abs(low) / 10)
    return [
        float(tick) for tick in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ]


def number(value: float) -> str:
    """Returns a short text with a true minus."""
    text = f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"
    return text.replace("-", "−")


@dataclass(frozen=True)
class Cell:
    """A rectangle of a map: place, strength 0 to 1, sign, and its words."""

    x: float
    y: float
    strength: float
    positive: bool
    words: str


@dataclass(frozen=True)
class Map:
    """Values by column and row, as cells of `width` x `height`."""

    cells: list[Cell]
    width: float
    height: float
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    words: str


def heat_map(columns: Sequence[float], values: Sequence[Sequence[float | None]]) -> Map | None:
    """Returns a map of explained variance, None if there is none.

    A column stands for a round, a row for a noise level, from pure noise (top) to the image.
    """
    depth = max((len(column) for column in values), default=0)
    if not depth:
        return None
    width, height = (WIDTH - LEFT - RIGHT) / len(columns), (HEIGHT - TOP - BOTTOM) / depth
    cells = [
        Cell(
            round(LEFT + i * width, 2),
            round(TOP + j * height, 2),
            round(min(1.0, abs(value)), 3),
            value >= 0,
            f"round {number(columns[i])}, level {j}: {number(round(value, 2))}",
        )
        for i, column in enumerate(values)
        for j, value in enumerate(column)
        if value is not None and math.isfinite(value)
    ]
    step = max(1, len(columns) // 6)
    last = [value for value in values[-1] if value is not None and math.isfinite(value)]
    ends = "unknown"
    if last:
        ends = (
            f"from {number(round(last[0], 2))} at pure noise to {number(round(last[-1], 2))} at "
            "the image"
        )
    return Map(
        cells,
        round(width, 2),
        round(height, 2),
        [(TOP + (j + 0.5) * height, str(j)) for j in range(0, depth, max(1, depth // 5))],
        [(LEFT + (i + 0.5) * width, number(columns[i])) for i in range(0, len(columns), step)],
        f"Explained variance of the critic by round and noise level; in the last round {ends}.",
    )


@dataclass(frozen=True)
class Mark:
    """A point of a chart with its whiskers, all in view-box units; hue 0 is hollow: the untouched
    model.
    """

    label: str
    hue: int
    x: float
    y: float
    whiskers: list[tuple[float, float, float, float]]
    words: str


@dataclass(frozen=True)
class Span:
    """A figure and its interval, in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scatter:
    """Marks with axes, all in view-box units."""

    marks: list[Mark]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


PERCENT = (0.0, 100.0)


def scatter(
    points: Sequence[tuple[str, int, Span, Span]],
    x_range: tuple[float, float] = PERCENT,
    y_range: tuple[float, float] = PERCENT,
) -> Scatter:
    """Returns a chart of percentages, of points (label, hue, what is on x, what is on y); whiskers
    end with the ranges.
    """

    def within(value: float, limits: tuple[float, float]) -> float:
        return min(max(value, limits[0]), limits[1])

    def across(x: float) -> float:
        left, right = x_range
        share = (within(x, x_range) - left) / (right - left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        low, high = y_range
        share = (within(y, y_range) - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    marks = [
        Mark(
            label,
            hue,
            across(x.value),
            up(y.value),
            [
                (across(x.low), up(y.value), across(x.high), up(y.value)),
                (across(x.value), up(y.low), across(x.value), up(y.high)),
            ],
            f"{label}: {x.value:.1f}, {y.value:.1f}",
        )
        for label, hue, x, y in points
    ]
    return Scatter(
        marks,
        [(across(x), number(x)) for x in percentages(x_range)],
        [(up(y), number(y)) for y in percentages(y_range)],
    )


def percentages(limits: tuple[float, float]) -> list[float]:
    """Returns round percentages within a range; there may be room beyond 0 and 100, but nothing in
    it.
    """
    low, high = max(limits[0], PERCENT[0]), min(limits[1], PERCENT[1])
    return [tick for tick in ticks(low, high, 5) if low <= tick <= high]
