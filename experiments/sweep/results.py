"""What a trial's run folder says of its results: looks of the selection CLIP, and figures of the
judges.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool

from experiments.evaluation.measures import HEADLINE
from experiments.report import contract
from experiments.report.contract import Count, Number, Part
from experiments.runs.rows import Event, read_rows

Share = Annotated[float, Field(ge=0, le=1)]


class Look(Event):
    """A line of `metrics.jsonl` about a look; a figure that was not finite is null."""

    images: Number = 0.0
    forgotten: Share | None = None
    score: Number | None = None
    best: StrictBool = False


class Judged(Part):
    """One model under the judges."""

    ua: Number | None = None
    ira: Number | None = None
    cra: Number | None = None
    coherence: Number | None = None


class Evaluation(Part):
    """The part of `evaluation.json` that tables are made from."""

    after: Judged = Judged()
    images_used: Count | None = None
    updates: Count | None = None
    wall_seconds: Number | None = None


def looks(folder: Path) -> list[dict[str, Any]]:
    """All looks of a run that saw something, in order; DataError if its metrics are damaged."""
    rows = read_rows(folder / "metrics.jsonl", Look)
    return [row for row in rows if row["event"] == "selection" and row.get("forgotten") is not None]


def chosen(looks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The look at the version that a run returned, or would return: of those allowed, the one liked
    best.
    """
    return next((row for row in reversed(looks) if row.get("best")), None)


def figures(folder: Path) -> dict[str, float]:
    """The judges' figures and what the run took, nothing if one of them is missing; DataError if
    they are damaged.
    """
    found = contract.read(folder / "evaluation.json", Evaluation)
    if found is None:
        return {}
    values = {name: getattr(found.after, name) for name in HEADLINE}
    values |= {"images": found.images_used, "updates": found.updates, "seconds": found.wall_seconds}
    return {} if None in values.values() else {name: float(value) for name, value in values.items()}
