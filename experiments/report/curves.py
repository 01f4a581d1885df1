"""The curves of a run, for eyes of every kind: Okabe-Ito colours, different line styles, axes with
units.
"""

from typing import Any

from experiments.report.figures import points
from experiments.report.png import new_figure, open_axes, to_png

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

Curve = tuple[str, str, str, str, str]  # event, key, label, colour, line style
PANELS: tuple[tuple[str, str, tuple[Curve, ...]], ...] = (
    ("Reward", "mean reward (nats)", (("round", "reward", "reward", BLUE, "-"),)),
    (
        "Selection CLIP's look",
        "share (0 to 1)",
        (
            ("selection", "forgotten", "forgotten", ORANGE, "-"),
            ("selection", "retained", "retained", BLUE, "--"),
            ("selection", "coherence", "coherence", GREEN, ":"),
        ),
    ),
    (
        "Drift on retained prompts",
        "KL (nats per step)",
        (("round", "kl", "KL to the frozen model", BLUE, "-"),),
    ),
    (
        "Largest importance ratio",
        "ratio (1 = on policy)",
        (("round", "ratio_max", "largest ratio", ORANGE, "-"),),
    ),
    (
        "Effective sample size",
        "share of the batch",
        (
            ("round", "ess", "of the weights used", GREEN, "-"),
            ("round", "ess_exact", "of exact weights", GREY, "--"),
        ),
    ),
    ("Speed", "images per second", (("round", "images_per_second", "images/s", GREY, "-"),)),
)


def series(rows: list[dict[str, Any]], event: str, key: str) -> tuple[list[float], list[float]]:
    """Rounds and values of one quantity; a per-step list counts with its mean."""
    found = points(rows, event, "round", key)
    return [x for x, _ in found], [y for _, y in found]


def draw_curves(rows: list[dict[str, Any]]) -> bytes:
    """A PNG of six panels over the rounds."""
    figure = new_figure(11, 6)
    for axes, (title, unit, curves) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("round")
        axes.set_ylabel(unit)
        axes.ticklabel_format(axis="y", useOffset=False)
        open_axes(axes, grid=0.3)
        drawn = 0
        for event, key, label, colour, style in curves:
            rounds, values = series(rows, event, key)
            if rounds:
                axes.plot(
                    rounds,
                    values,
                    style,
                    color=colour,
                    label=label,
                    marker="." if len(rounds) < 30 else None,
                )
                drawn += 1
        if not drawn:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
        if "share" in unit:
            axes.set_ylim(0, 1.05)
        if drawn > 1:
            axes.legend(frameon=False, fontsize=9)
    return to_png(figure)
