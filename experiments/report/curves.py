"""The training curves of runs: a picture beside each run, and charts of the page that may show
several runs.

For eyes of every kind: colours of Okabe and Ito, different line styles, axes with units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.report import charts
from experiments.report.charts import Chart, Curve
from experiments.report.figures import drawable, points
from experiments.report.png import BLUE, GREEN, GREY, ORANGE, new_figure, open_axes, to_png
from experiments.report.run_view import Run

Styled = tuple[str, str, str, str, str]  # event, key, label, colour, line style
PICTURE: tuple[tuple[str, str, tuple[Styled, ...]], ...] = (
    ("Reward", "mean reward (nats)", (("round", "reward", "reward", BLUE, "-"),)),
    (
        "Selection CLIP",
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
"""The panels of a run's picture: title, unit and curves."""


@dataclass(frozen=True)
class Panel:
    """A chart of the page: what one event says, in some keys, over another key."""

    title: str
    unit: str
    kinds: tuple[tuple[str, str], ...]
    """Keys and their labels."""
    event: str = "round"
    over: str = "round"
    span: tuple[float, float] | None = None


LOOKS = Panel(
    "Forgetting over images",
    "share, by the selection CLIP",
    (("forgotten", "forgotten"), ("retained", "retained"), ("coherence", "coherence")),
    event="selection",
    over="images",
    span=(0, 1),
)
REWARD = Panel(
    "Reward", "mean, nats", (("reward", "target prompts"), ("retain_reward", "kept prompts"))
)
DRIFT = Panel("Drift on kept prompts", "KL, nats per step", (("kl", "KL to the untouched model"),))
FLOOR = ("kl_floor", "floor of rounding, taken off")
RATIOS = Panel(
    "Importance ratios", "1 = on policy", (("ratio_max", "largest"), ("ratio_min", "smallest"))
)
SAMPLE_SIZE = Panel(
    "Effective sample size",
    "share of the batch",
    (("ess", "of the weights used"), ("ess_exact", "of exact weights")),
    span=(0, 1),
)
LAG = Panel("Policy lag", "updates", (("policy_lag", "lag"),))


def series(rows: list[dict[str, Any]], event: str, key: str) -> tuple[list[float], list[float]]:
    """Returns rounds and values of one quantity; a per-step list counts with its mean."""
    places = points(rows, event, "round", key)
    return [x for x, _ in places], [y for _, y in places]


def draw_curves(rows: list[dict[str, Any]]) -> bytes:
    """Returns a PNG of six panels over the rounds of one run."""
    figure = new_figure(11, 6)
    for axes, (title, unit, curves) in zip(figure.subplots(2, 3).flat, PICTURE, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("round")
        axes.set_ylabel(unit)
        axes.ticklabel_format(axis="y", useOffset=False)
        open_axes(axes, grid=0.3)
        drawn = 0
        for event, key, label, colour, style in curves:
            rounds, values = series(rows, event, key)
            if rounds:
                marker = "." if len(rounds) < 30 else None
                axes.plot(rounds, values, style, color=colour, label=label, marker=marker)
                drawn += 1
        if not drawn:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
        if "share" in unit:
            axes.set_ylim(0, 1.05)
        if drawn > 1:
            axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


def page_curves(runs: Sequence[Run]) -> list[Chart]:
    """Returns the training curves of all runs together; with several runs a colour stands for a
    run.
    """
    budgets = {run.config.learner.kl_budget for run in runs}
    budget = (budgets.pop(), "budget") if len(budgets) == 1 else None
    rough = any(
        value > 0 for run in runs for _, value in points(run.metrics, "round", "round", FLOOR[0])
    )
    drift = replace(DRIFT, kinds=(*DRIFT.kinds, FLOOR)) if rough else DRIFT
    panels = (LOOKS, REWARD, drift, RATIOS, SAMPLE_SIZE, LAG)
    drawn = [_chart(panel, runs, budget if panel is drift else None) for panel in panels]
    return [chart for chart in drawn if chart is not None]


def _chart(panel: Panel, runs: Sequence[Run], limit: tuple[float, str] | None) -> Chart | None:
    lines = []
    for run in runs:
        for dash, (key, label) in enumerate(panel.kinds):
            name, hue = (f"{run.title}: {label}", run.hue) if len(runs) > 1 else (label, dash + 1)
            places = points(run.metrics, panel.event, panel.over, key)
            lines.append(Curve(name, hue, dash, places))
    return charts.line_chart(panel.title, panel.unit, panel.over, lines, panel.span, limit)


def critic_map(run: Run) -> charts.Map | None:
    """Returns the critic's explained variance by round and noise level."""
    rows = [
        row
        for row in run.metrics
        if row.get("event") == "round" and isinstance(row.get("explained_variance"), list)
    ]
    if not rows:
        return None
    values = [[drawable(value) for value in row["explained_variance"]] for row in rows]
    rounds = [drawable(row.get("round")) for row in rows]
    return charts.heat_map(
        [i + 1 if round is None else round for i, round in enumerate(rounds)], values
    )
