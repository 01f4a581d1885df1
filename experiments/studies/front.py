"""What is lost against what is forgotten: a line for each value of one key, a point for each value
of another.

    python -m experiments.studies.front outputs/retention estimator.name learner.kl_budget \\
        docs/studies/retention.json docs/pictures/retention.png

UA, IRA and CRA are the judges'; drift is the learner's own measure of what its budget limits. A
point is a mean over concepts and seeds with its 95 % t-interval.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.evaluation.headline import HEADLINE
from experiments.files import write_bytes, write_json
from experiments.report.png import COLOURS, legend_below, new_figure, open_axes, to_png
from experiments.runs.rows import EventRow, read_rows
from experiments.sweep.table import Mean, Trial, mean, read_trials

LOST = {
    "ira": "IRA %: others of its domain",
    "cra": "CRA %: the other domain",
    "drift": "drift: KL on prompts to keep, nats a step",
}
_LATE = 8


@dataclass(frozen=True)
class Point:
    """All judged trials of one value on each axis of the sweep."""

    line: Any
    point: Any
    trials: tuple[Trial, ...]

    def mean(self, measure: str) -> Mean:
        """Returns the mean of a judged figure, percent, or of the drift (`with_drift`), nats."""
        return mean([trial.figures[measure] for trial in self.trials])


def drift(trial: Trial) -> float:
    """Returns the KL to the frozen model on prompts to keep, nats per denoising step: median of the
    last rounds.
    """
    rounds = [
        row
        for row in read_rows(trial.path / "metrics.jsonl", EventRow)
        if row.get("event") == "round"
    ]
    return statistics.median(float(row["kl"]) for row in rounds[-_LATE:])


def read_points(root: Path, line: str, point: str) -> list[Point]:
    """Returns the finished trials of a sweep, grouped by two keys of their configurations."""
    groups: dict[tuple[Any, Any], list[Trial]] = {}
    for trial in read_trials(root):
        if trial.finished:
            config = settings.recorded(trial.path / "config.yaml")
            key = (settings.value(config, line), settings.value(config, point))
            groups.setdefault(key, []).append(trial)
    return [Point(*key, tuple(trials)) for key, trials in sorted(groups.items())]


def with_drift(point: Point) -> Point:
    """Returns the point with the drift among its trials' figures."""
    trials = [
        replace(trial, figures=trial.figures | {"drift": drift(trial)}) for trial in point.trials
    ]
    return replace(point, trials=tuple(trials))


def markdown(points: Sequence[Point], line: str, point: str) -> str:
    """Returns the table of all points."""
    rows = [
        f"| {line} | {point} | runs | UA | coherence | IRA | CRA | drift |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for place in points:
        cells = [place.mean(name).text() for name in HEADLINE] + [
            place.mean("drift").text(digits=2)
        ]
        rows.append(f"| {place.line} | {place.point} | {len(place.trials)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(points: Sequence[Point], point: str) -> bytes:
    """Returns a PNG: for each figure of what is kept, forgotten against it.

    Points are joined in the order of their values.
    """
    figure = new_figure(4.2 * len(LOST), 4.0)
    for axes, (measure, title) in zip(
        figure.subplots(1, len(LOST), sharey=True), LOST.items(), strict=True
    ):
        for i, line in enumerate(dict.fromkeys(place.line for place in points)):
            places = [place for place in points if place.line == line]
            kept, forgotten = (
                [place.mean(measure) for place in places],
                [place.mean("ua") for place in places],
            )
            axes.errorbar(
                [m.value for m in kept],
                [m.value for m in forgotten],
                xerr=_arms(kept, measure != "drift"),
                yerr=_arms(forgotten, True),
                marker="o",
                markersize=5,
                linewidth=1.2,
                elinewidth=0.6,
                capsize=2,
                color=COLOURS[i],
                label=str(line),
            )
            for rank, (place, x, y) in enumerate(zip(places, kept, forgotten, strict=True)):
                if measure == "drift":  # in the others the points lie on each other
                    axes.annotate(
                        f"{place.point}",
                        (x.value, y.value),
                        textcoords="offset points",
                        xytext=(0, -12 - 9 * (rank % 2)),
                        ha="center",
                        fontsize=7,
                        color=COLOURS[i],
                    )
        axes.set_xlabel(title, fontsize=9)
        axes.set_ylim(-3, 105)
        if measure == "drift":
            axes.set_xlim(left=0)
            axes.invert_xaxis()  # what keeps more is on the right, as in the others
        else:
            axes.set_xlim(min(95.0, axes.get_xlim()[0]), 100.5)
        open_axes(axes)
        axes.tick_params(labelsize=8)
    axes = figure.axes[0]
    axes.set_ylabel("UA %: forgotten", fontsize=9)
    legend_below(figure, axes, columns=6)
    figure.suptitle(
        f"UA, IRA and CRA by the judges, drift by the learner; small numbers: {point}", fontsize=9
    )
    return to_png(figure)


def _arms(means: Sequence[Mean], share: bool) -> tuple[list[float], list[float]]:
    """Returns the lengths of the error bars, down and up; those of a share end at 0 and 100
    percent.
    """
    halves = [m.half or 0.0 for m in means]
    if not share:
        return halves, halves
    down = [min(half, m.value) for m, half in zip(means, halves, strict=True)]
    return down, [min(half, 100 - m.value) for m, half in zip(means, halves, strict=True)]


def main(argv: list[str] | None = None) -> None:
    """Prints the table; writes every run as JSON, and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("line", help="key that tells the lines apart")
    parser.add_argument("point", help="key that tells a line's points apart")
    parser.add_argument("json", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args(argv)
    points = [with_drift(place) for place in read_points(args.sweep, args.line, args.point)]
    runs = [
        {
            args.line: place.line,
            args.point: place.point,
            "seed": trial.settings.get("seed"),
            **trial.figures,
        }
        for place in points
        for trial in place.trials
    ]
    write_json(args.json, {"runs": runs})
    write_bytes(args.picture, draw(points, args.point))
    print(markdown(points, args.line, args.point))  # noqa: T201


if __name__ == "__main__":
    main()
