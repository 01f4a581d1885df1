"""The table of a sweep, from its run folders alone: one row for each setting, over its seeds."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.evaluation.headline import HEADLINE
from experiments.runs.run_state import NAME, read_state
from experiments.sweep import results as recorded

FORGOTTEN = 0.9
"""Share of target images without the concept, seen by the selection CLIP, from which it counts as
forgotten."""
FIGURES = (*HEADLINE, *recorded.PLACE, "images", "updates", "seconds", "images_until")
HEADINGS = (
    "UA %",
    "coherence %",
    "IRA %",
    "CRA %",
    "anchor %",
    "spread %",
    "anchor KID",
    "images",
    "updates",
    "seconds",
    f"images until {FORGOTTEN:g}",
)
_DIGITS = {"ua": 1, "coherence": 1, "ira": 1, "cra": 1, "anchor": 1, "anchor_kid": 2}


@dataclass(frozen=True)
class Trial:
    """What one run folder says."""

    path: Path
    label: str
    settings: dict[str, Any]
    state: str
    reason: str | None
    figures: dict[str, float]
    """By the names in FIGURES; empty unless finished, without `images_until` if that was never
    reached, without those of the anchor if the evaluation has none."""
    curve: tuple[tuple[float, float], ...]
    """Images and share forgotten, validation by validation."""
    score: float | None
    """The best validation's, by the selection CLIP."""

    @property
    def finished(self) -> bool:
        """Whether it was judged."""
        return self.state == "finished" and bool(self.figures)


@dataclass(frozen=True)
class Mean:
    """A mean with half the width of its 95 % t-interval."""

    value: float
    half: float | None
    """None for a single value."""
    n: int

    def text(self, digits: int = 1) -> str:
        """Returns value and interval; the same number in every trial, as of updates, needs no
        interval.
        """
        return f"{self.value:,.{digits}f}" + (f" ± {self.half:,.{digits}f}" if self.half else "")


@dataclass(frozen=True)
class Row:
    """One setting over its seeds."""

    label: str
    settings: dict[str, Any]
    """Without the seed."""
    trials: tuple[Trial, ...]
    means: dict[str, Mean]
    """Over finished trials; empty if there is none."""

    @property
    def finished(self) -> list[Trial]:
        """Those of its trials that were judged."""
        return [trial for trial in self.trials if trial.finished]

    @property
    def kept(self) -> float:
        """Mean of IRA and CRA, percent."""
        return (self.means["ira"].value + self.means["cra"].value) / 2


def read_trials(root: Path) -> list[Trial]:
    """Returns every trial in a sweep's folder, by name; DataError, which names the file, if one is
    damaged.
    """
    folders = [path.parent for path in sorted(root.glob(f"*/{NAME}"))]
    trials = [_trial(folder) for folder in folders if not folder.name.startswith(".")]
    return [trial for trial in trials if trial is not None]


def _trial(folder: Path) -> Trial | None:
    state = read_state(folder)
    if state.trial is None:
        return None
    validations = recorded.validations(folder)
    best = recorded.chosen(validations)
    figures = recorded.figures(folder) if state.finished else {}
    until = next(
        (row.get("images", 0) for row in validations if row["forgotten"] >= FORGOTTEN), None
    )
    if figures and until is not None:
        figures["images_until"] = float(until)
    return Trial(
        path=folder,
        label=state.trial.label,
        settings=state.trial.settings,
        state=str(state.state),
        reason=state.reason,
        figures=figures,
        curve=tuple((float(row.get("images", 0)), float(row["forgotten"])) for row in validations),
        score=None if best is None else best.get("score"),
    )


def rows(trials: Sequence[Trial]) -> list[Row]:
    """Returns a row for each setting, the lowest UA first; settings without a judged trial last."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        rest = {key: value for key, value in trial.settings.items() if key != "seed"}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(trial)
    table = []
    for key, members in groups.items():
        figures = [trial.figures for trial in members if trial.finished]
        measured = {name: [run[name] for run in figures if name in run] for name in FIGURES}
        means = {name: mean(values) for name, values in measured.items() if values}
        table.append(Row(members[0].label, json.loads(key), tuple(members), means))
    return sorted(
        table, key=lambda row: (row.means["ua"].value if row.means else math.inf, row.label)
    )


def mean(values: Sequence[float]) -> Mean:
    """Returns mean and Student's 95 % interval of independent values."""
    n, middle = len(values), sum(values) / len(values)
    if n < 2:
        return Mean(middle, None, n)
    from scipy.stats import t

    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (n - 1))
    return Mean(middle, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)


def half_kept(row: Row) -> float:
    """Returns the half-width of the 95 % interval of the mean of IRA and CRA over trials; 0 for a
    single one.
    """
    kept = [(trial.figures["ira"] + trial.figures["cra"]) / 2 for trial in row.finished]
    return mean(kept).half or 0.0


def markdown(rows: Sequence[Row], front: Sequence[Row], name: str) -> str:
    """Returns the table for people, the failures below it."""
    lines = [
        f"# Sweep {name}",
        "",
        "Mean ± half of the 95 % t-interval over the n finished trials of a setting (its seeds), "
        "the lowest UA first. Anchor: the judge's probability of what shall stand in the concept's "
        "place; spread: how varied it is, where the untouched model's is 100; KID: its kernel "
        "distance to the untouched model's anchor. The last column: "
        f"images generated until the selection CLIP first saw at least {FORGOTTEN:g} of the target "
        "images without the concept. ★: on the front of UA against the mean of IRA and CRA.",
        "",
        f"| setting | n | {' | '.join(HEADINGS)} |",
        f"|---|--:|{'--:|' * len(HEADINGS)}",
    ]
    for row in rows:
        star = " ★" if any(row is member for member in front) else ""
        cells = [_cell(row, key) for key in FIGURES]
        count = f"{len(row.finished)}" + (
            f" of {len(row.trials)}" if len(row.finished) < len(row.trials) else ""
        )
        lines.append(f"| {row.label}{star} | {count} | {' | '.join(cells)} |")
    others = [trial for row in rows for trial in row.trials if not trial.finished]
    if others:
        lines += ["", "## Trials without a result", ""]
        lines += [
            f"- `{t.path.name}`, {t.state}: {one_line(t.reason or 'it was not finished')}"
            for t in others
        ]
    return "\n".join(lines) + "\n"


def digits(key: str) -> int:
    """Returns how many digits of a figure are shown behind the point."""
    return _DIGITS.get(key, 0)


def _cell(row: Row, key: str) -> str:
    if key not in row.means:
        return ""
    average = row.means[key]
    missing = len(row.finished) - average.n
    return average.text(digits(key)) + (f" ({average.n} of {len(row.finished)})" if missing else "")


def comma_separated(rows: Sequence[Row], front: Sequence[Row]) -> str:
    """Returns the table for programs: a column for each varied key, mean and half-width of each
    figure.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = [f"{name}{end}" for name in FIGURES for end in ("", "_half", "_n")]
    writer.writerow(["setting", *keys, "n", "trials", "front", *figures])
    for row in rows:
        values = [row.settings.get(key, "") for key in keys]
        cells: list[Any] = []
        for name in FIGURES:
            average = row.means.get(name)
            cells += (
                [average.value, "" if average.half is None else average.half, average.n]
                if average
                else ["", "", 0]
            )
        on_front = int(any(row is member for member in front))
        plain = [
            value if isinstance(value, str | int | float) else json.dumps(value) for value in values
        ]
        writer.writerow([row.label, *plain, len(row.finished), len(row.trials), on_front, *cells])
    return out.getvalue()


def results(rows: Sequence[Row], front: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows with their trials, for `results.json`."""
    return [
        {
            "setting": row.label,
            "settings": row.settings,
            "front": any(row is member for member in front),
            "n": len(row.finished),
            **{
                name: {"mean": average.value, "half": average.half, "n": average.n}
                for name, average in row.means.items()
            },
            "trials": [
                {
                    "run": trial.path.name,
                    "state": trial.state,
                    "reason": trial.reason,
                    "seed": trial.settings.get("seed"),
                    **trial.figures,
                }
                for trial in row.trials
            ],
        }
        for row in rows
    ]


def one_line(text: str) -> str:
    """Returns text of any origin on one line of a list."""
    return " ".join(text.split())[:300]
