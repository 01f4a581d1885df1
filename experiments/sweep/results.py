"""What a trial's run folder says of its results: validations of the selection CLIP, and figures of
the judges.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool

from experiments.evaluation.headline import HEADLINE
from experiments.runs.rows import EventRow, read_rows
from rl_unlearn.evaluation.record import NAME, Number, read_evaluation

PLACE = ("anchor", "spread", "anchor_kid")
"""Figures of what stands in the concept's place; an evaluation may lack them."""
Share = Annotated[float, Field(ge=0, le=1)]


class ValidationRow(EventRow):
    """A line of `metrics.jsonl` about a validation; a figure that was not finite is null."""

    images: Number = 0.0
    forgotten: Share | None = None
    score: Number | None = None
    best: StrictBool = False


def validations(folder: Path) -> list[dict[str, Any]]:
    """Returns all validations of a run that saw something, in order; DataError if its metrics are
    damaged.
    """
    rows = read_rows(folder / "metrics.jsonl", ValidationRow)
    return [row for row in rows if row["event"] == "selection" and row.get("forgotten") is not None]


def chosen(validations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the validation of the version that a run returned, or would return: of those allowed,
    the one liked best.
    """
    return next((row for row in reversed(validations) if row.get("best")), None)


def figures(folder: Path) -> dict[str, float]:
    """Returns the judges' figures and what the run took, nothing if one of them is missing;
    DataError if they are damaged.
    """
    evaluation = read_evaluation(folder / NAME)
    if evaluation is None or evaluation.after is None:
        return {}
    headline = {name: getattr(evaluation.after, name) for name in HEADLINE}
    values = {name: figure and figure.value for name, figure in headline.items()} | {
        "images": evaluation.images_used,
        "updates": evaluation.updates,
        "seconds": evaluation.wall_seconds,
    }
    if None in values.values():
        return {}
    place = {name: getattr(evaluation.after, name) for name in PLACE}
    values |= {
        name: getattr(figure, "value", figure)
        for name, figure in place.items()
        if figure is not None
    }
    return {name: float(value) for name, value in values.items()}
