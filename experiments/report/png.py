"""Pictures that matplotlib draws, as PNG files: without a window, and in one style."""

import statistics
from collections.abc import Sequence
from io import BytesIO
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, for eyes of every kind."""


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure of so many inches, whose parts find their places themselves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def open_axes(axes: Any, grid: float = 0.25) -> None:
    """Takes the frame away above and on the right, and draws a grid of some opacity."""
    axes.grid(alpha=grid)
    axes.spines[["top", "right"]].set_visible(False)


def plot_runs(
    axes: Any, curves: Sequence[Sequence[tuple[float, float]]], label: str, **style: Any
) -> None:
    """Draws single runs thin and their mean thick and labelled; `style` is matplotlib's."""
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), linewidth=0.6, alpha=0.45, **style)
    columns = [list(zip(*points, strict=True)) for points in zip(*curves, strict=False)]
    thick = [(statistics.mean(xs), statistics.mean(ys)) for xs, ys in columns]
    axes.plot(*zip(*thick, strict=True), linewidth=1.9, label=label, **style)


def legend_below(figure: Any, axes: Any, columns: int) -> None:
    """Names the lines of some axes below the whole figure."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def to_png(figure: Any, dpi: int = 110) -> bytes:
    """Returns the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
