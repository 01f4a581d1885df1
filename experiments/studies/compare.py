"""A sweep's settings side by side, each over all its concepts and seeds: a table, and the curves of
every single run.

    python -m experiments.studies.compare outputs/reuse \\
        docs/studies/reuse.json docs/pictures/reuse.png
    # and differences from one of the lines:
    python -m experiments.studies.compare outputs/estimators e.json e.png --than terminal

Curves are what the selection CLIP saw in its validations. Images are those of warm-up and rounds;
the validations, the measuring instrument here, are left out.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation.headline import HEADLINE
from experiments.files import write_bytes, write_json
from experiments.report.png import (
    COLOURS,
    legend_below,
    new_figure,
    open_axes,
    plot_runs,
    to_png,
)
from experiments.studies.runs import Run, read_runs, setting_names
from experiments.sweep.results import PLACE
from experiments.sweep.table import mean

PANELS = {
    "forgotten": "forgotten",
    "coherence": "coherence",
    "retained": "retained",
    "other": "rest of retained",
}
FLAT = 0.95
"""A share that never falls below is said and not drawn."""
STYLES = ("-", "--", ":", "-.")


def row(setting: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Returns a setting's figures over its runs: judged ones as mean and half of the 95 %
    t-interval, counts as medians.
    """
    figures: dict[str, Any] = {"setting": setting, "n": len(runs)}
    for name in HEADLINE:
        values = [run.trial.figures[name] for run in runs]
        average = mean(values)
        figures[name] = {"mean": average.value, "half": average.half, "min": min(values)}
    reached = [(run, validation) for run in runs if (validation := run.reached)]
    never = [math.inf] * (len(runs) - len(reached))
    for name in PLACE:
        there = [run.trial.figures[name] for run in runs if name in run.trial.figures]
        if there:
            average = mean(there)
            ends = {"min": min(there), "max": max(there)}
            figures[name] = {"mean": average.value, "half": average.half, **ends}
    figures["reached"] = len(reached)
    figures["updates_until"] = _median(
        [float(validation["policy_version"]) for _, validation in reached] + never
    )
    figures["rollouts_until"] = _median(
        [float(run.per_round * validation["round"]) for run, validation in reached] + never
    )
    figures["images_until"] = _median(
        [float(run.images(validation)) for run, validation in reached] + never
    )
    figures["seconds_until"] = _median(
        [float(validation["seconds"]) for _, validation in reached] + never
    )
    return figures


def _median(values: Sequence[float]) -> float | None:
    """Returns the median, None where at least half of the runs never got there."""
    middle = statistics.median(values)
    return middle if math.isfinite(middle) else None


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table; what is first reached counts images of the rounds, and with those of the
    warm-up.
    """
    lines = [
        "| setting | runs | UA (lowest) | coherence | IRA | CRA | forgotten in | updates | "
        "rollouts | + warm-up |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for setting in rows:
        cells = [_interval(setting[name]) for name in HEADLINE]
        cells[0] += f" ({setting['ua']['min']:.1f})"
        medians = [
            "" if setting[key] is None else f"{setting[key]:,.0f}"
            for key in ("updates_until", "rollouts_until", "images_until")
        ]
        lines.append(
            f"| {setting['setting']} | {setting['n']} | {' | '.join(cells)} | {setting['reached']} "
            f"of {setting['n']} | {' | '.join(medians)} |"
        )
    return "\n".join(lines)


def of_the_place(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table of what stands in the concept's place, with each figure's worst run; nothing
    where none of the evaluations says.
    """
    told = [setting for setting in rows if any(name in setting for name in PLACE)]
    if not told:
        return ""
    lines = [
        "| setting | anchor, % (lowest) | spread, % (lowest) | anchor KID (highest) |",
        "|---|--:|--:|--:|",
    ]
    for setting in told:
        cells = [
            f"{_interval(figure, digits)} ({figure[end]:.{digits}f})"
            if (figure := setting.get(name))
            else ""
            for name, end, digits in zip(PLACE, ("min", "min", "max"), (1, 0, 2), strict=True)
        ]
        lines.append(f"| {setting['setting']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(runs: Sequence[Run], names: Sequence[str], other: str) -> str:
    """Returns a table: figures of each setting less those of ``other``, over the pairs of the same
    concept and seed, and over the means of each concept's pairs.
    """

    def judged(name: str) -> dict[tuple[str, Any], dict[str, float]]:
        chosen = [run for run in runs if run.setting == name]
        return {(run.concept, run.trial.settings.get("seed")): run.trial.figures for run in chosen}

    base = judged(other)
    lines = [f"| setting | figure | pairs | less that of {other} | by concept |"]
    lines.append("|---|---|--:|--:|--:|")
    for name in names:
        for figure in ("ua", *PLACE):
            pairs = {
                pair: figures[figure] - base[pair][figure]
                for pair, figures in judged(name).items()
                if figure in figures and figure in base.get(pair, {})
            }
            if not pairs or name == other:
                continue
            concepts = dict.fromkeys(concept for concept, _ in pairs)
            means = [
                mean([value for (of, _), value in pairs.items() if of == concept]).value
                for concept in concepts
            ]
            digits = 2 if figure == "anchor_kid" else 1
            cells = [name, figure, str(len(pairs)), mean([*pairs.values()]).text(digits)]
            lines.append(f"| {' | '.join([*cells, mean(means).text(digits)])} |")
    return "\n".join(lines)


def _interval(average: dict[str, float | None], digits: int = 1) -> str:
    half = f" ± {average['half']:.{digits}f}" if average["half"] else ""
    return f"{average['mean']:.{digits}f}{half}"


def draw(runs: Sequence[Run], names: Sequence[str], against: str) -> bytes:
    """Returns a PNG: a row of panels for each concept, a column for each share.

    Single runs are thin, their mean is thick.
    """
    concepts = list(dict.fromkeys(run.concept for run in runs))
    lowest = {
        key: min(float(validation[key]) for run in runs for validation in run.validations)
        for key in PANELS
    }
    panels = {key: title for key, title in PANELS.items() if lowest[key] < FLAT}
    flat = "".join(
        f"; {title}: at least {lowest[key]:.2f}"
        for key, title in PANELS.items()
        if key not in panels
    )
    figure = new_figure(4.4 * len(panels) + 0.6, 2.5 * len(concepts) + 0.9)
    grid = figure.subplots(len(concepts), len(panels), sharex=True, sharey=True, squeeze=False)
    for line, concept in zip(grid, concepts, strict=True):
        for axes, (key, title) in zip(line, panels.items(), strict=True):
            for i, name in enumerate(names):
                curves = [
                    [
                        (_place(run, validation, against), float(validation[key]))
                        for validation in run.validations
                    ]
                    for run in runs
                    if run.concept == concept and run.setting == name
                ]
                style = {
                    "color": COLOURS[i % len(COLOURS)],
                    "linestyle": STYLES[i // len(COLOURS) % len(STYLES)],
                }
                if curves:
                    plot_runs(axes, curves, name, **style)
            axes.set_title(f"{concept}: {title}", fontsize=9, loc="left")
            axes.set_ylim(-0.03, 1.05)
            axes.set_xlim(left=0)
            open_axes(axes)
            axes.tick_params(labelsize=8)
    legend_below(figure, grid[0][0], columns=2 * len(grid[0]))
    for axes in grid[-1]:
        axes.set_xlabel(
            {"images": "images of warm-up and rounds", "seconds": "seconds"}[against], fontsize=8
        )
    figure.suptitle(
        f"share, seen by the selection CLIP (thin: one seed, thick: their mean){flat}", fontsize=9
    )
    return to_png(figure)


def _place(run: Run, validation: dict[str, Any], against: str) -> float:
    return float(run.images(validation) if against == "images" else validation["seconds"])


def main(argv: list[str] | None = None) -> None:
    """Prints the table; writes the rows with all their runs as JSON, and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("json", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--against", choices=("images", "seconds"), default="images", help="the picture's abscissa"
    )
    parser.add_argument(
        "--than", metavar="SETTING", help="also print how much figures differ from that setting's"
    )
    args = parser.parse_args(argv)
    runs = read_runs(args.sweep)
    names = setting_names(args.sweep, runs)
    if args.than and args.than not in names:
        parser.error(f"no setting {args.than!r} here; there are {', '.join(names)}")
    rows = [row(name, [run for run in runs if run.setting == name]) for name in names]
    every = [
        {
            "setting": run.setting,
            "concept": run.concept,
            "seed": run.trial.settings.get("seed"),
            **run.trial.figures,
        }
        for run in runs
    ]
    write_json(args.json, {"rows": rows, "runs": every})
    write_bytes(args.picture, draw(runs, names, args.against))
    print(markdown(rows))  # noqa: T201
    if place := of_the_place(rows):
        print("\n" + place)  # noqa: T201
    if args.than:
        print("\n" + differences(runs, names, args.than))  # noqa: T201


if __name__ == "__main__":
    main()
