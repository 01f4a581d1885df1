"""What the runs of a sweep recorded on the way, setting by setting: a table of any keys of their
`metrics.jsonl`.

    python -m experiments.studies.rounds outputs/critics \\
        explained_variance critic_correlation --first 12
    python -m experiments.studies.rounds outputs/lag coherence --event selection --take lowest
    python -m experiments.studies.rounds outputs/jpeg reward --last 4 --picture reward.png

In each run one value is taken of its rows (their median, unless `--take` says otherwise); the table
has the mean of these over the setting's runs with its 95 % t-interval, and the lowest and highest
run. A key that holds a list, one value for each noise level, gets a table of its own, without
intervals. A cell is empty where a setting never recorded the key.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.files import write_bytes
from experiments.report.png import (
    COLOURS,
    legend_below,
    new_figure,
    open_axes,
    plot_runs,
    to_png,
)
from experiments.runs.rows import EventRow, read_rows
from experiments.studies.runs import Run, read_runs, setting_names
from experiments.sweep.table import mean

TAKE: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "lowest": min,
    "highest": max,
}


def read(run: Run, event: str, first: int | None, last: int | None) -> list[dict[str, Any]]:
    """Returns the rows of one event, all of them or the first or last so many."""
    rows = [
        row
        for row in read_rows(run.trial.path / "metrics.jsonl", EventRow)
        if row.get("event") == event
    ]
    return rows[:first] if first is not None else rows[-last:] if last is not None else rows


def taken(rows: Sequence[dict[str, Any]], key: str, take: str) -> list[float]:
    """Returns one value of a run for the key, or for a key that holds lists one for each of their
    places.

    What was not defined in a row is left out; NaN where it never was. Empty if no row has the key.
    """
    values = [row[key] for row in rows if row.get(key) is not None]
    places = zip(*(value if isinstance(value, list) else [value] for value in values), strict=True)
    defined = [[float(value) for value in place if value is not None] for place in places]
    return [TAKE[take](place) if place else math.nan for place in defined]


def markdown(values_by_key: dict[str, dict[str, list[list[float]]]], digits: int) -> str:
    """Returns a table of the keys with one value, and one for each key with several.

    Below each key stand the settings with the values of their runs.
    """
    single = [
        key
        for key, settings in values_by_key.items()
        if all(len(run) <= 1 for runs in settings.values() for run in runs)
    ]
    tables = []
    if single:
        lines = [
            "| setting | runs | " + " | ".join(f"{key} | lowest, highest" for key in single) + " |"
        ]
        lines.append("|---|--:|" + "--:|--:|" * len(single))
        for setting, runs in values_by_key[single[0]].items():
            cells = []
            for key in single:
                values = [run[0] for run in values_by_key[key][setting] if run]
                ends = f"{min(values):,.{digits}f}, {max(values):,.{digits}f}" if values else ""
                cells += [mean(values).text(digits) if values else "", ends]
            lines.append(f"| {setting} | {len(runs)} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    for key in (key for key in values_by_key if key not in single):
        width = max(len(run) for runs in values_by_key[key].values() for run in runs)
        lines = [f"| {key} |" + " |" * width, "|---|" + "--:|" * width]
        for setting, runs in values_by_key[key].items():
            known = zip(*(run for run in runs if run), strict=True)
            places = [[value for value in place if not math.isnan(value)] for place in known]
            cells = [
                f"{statistics.mean(place):.{digits}f}" if place else "" for place in places
            ] or [""] * width
            lines.append(f"| {setting} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def draw(curves: dict[str, list[list[tuple[float, float]]]], key: str) -> bytes:
    """Returns a PNG of one key against rounds: single runs are thin, their mean is thick."""
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    for colour, (setting, runs) in zip(
        COLOURS * (1 + len(curves) // len(COLOURS)), curves.items(), strict=False
    ):
        plot_runs(axes, runs, setting, color=colour)
    axes.set_xlabel("rounds", fontsize=9)
    axes.set_ylabel(key, fontsize=9)
    open_axes(axes)
    axes.tick_params(labelsize=8)
    legend_below(figure, axes, columns=4)
    return to_png(figure)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables; draws the first key, if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("keys", nargs="+", metavar="KEY", help="of the rows of metrics.jsonl")
    parser.add_argument(
        "--event", default="round", help="whose rows are read: round (default) or selection"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--first", type=int, help="only the first so many rows of a run")
    part.add_argument("--last", type=int, help="only the last so many")
    parser.add_argument(
        "--take", choices=tuple(TAKE), default="median", help="what is taken of a run's rows"
    )
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="the first key against rounds, over all rows")
    args = parser.parse_args(argv)
    runs = read_runs(args.sweep)
    names = setting_names(args.sweep, runs)
    by_name = {name: [run for run in runs if run.setting == name] for name in names}
    rows = {
        name: [read(run, args.event, args.first, args.last) for run in of_setting]
        for name, of_setting in by_name.items()
    }
    values_by_key = {
        key: {
            name: [taken(run, key, args.take) for run in of_setting]
            for name, of_setting in rows.items()
        }
        for key in args.keys
    }
    for key, settings in values_by_key.items():
        if not any(run for of_setting in settings.values() for run in of_setting):
            recorded = ", ".join(
                sorted(
                    {
                        word
                        for of_setting in rows.values()
                        for run in of_setting
                        for row in run
                        for word in row
                    }
                )
            )
            parser.error(f"none of these rows has a value of {key!r}; recorded are: {recorded}")
    if args.picture:
        key = args.keys[0]
        whole = {
            name: [read(run, args.event, None, None) for run in of_setting]
            for name, of_setting in by_name.items()
        }
        curves = {
            name: [
                [(float(row["round"]), float(row[key])) for row in run if row.get(key) is not None]
                for run in of_setting
            ]
            for name, of_setting in whole.items()
            if any(values_by_key[key][name])
        }
        write_bytes(args.picture, draw(curves, key))
    print(markdown(values_by_key, args.digits))  # noqa: T201


if __name__ == "__main__":
    main()
