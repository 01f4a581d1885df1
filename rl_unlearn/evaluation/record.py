"""`evaluation.json`: what an evaluation says of the untouched model and of others, written and read
by one type.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from rl_unlearn.files.versioned import Versioned, read_versioned

NAME = "evaluation.json"
OTHERS = "evaluation-*.json"
"""Names of what was drawn otherwise than the run's own evaluation: by another scheduler."""
KERNEL = "the training's kernel"
REMEDY = "make the file again"
LARGEST = 1e100
"""Beyond it differences overflow; nothing that a run measures comes near."""
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=2**63)]


class Part(BaseModel):
    """A part of such a file; unknown keys are left alone, for a newer evaluation may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Figure(Part):
    """A figure with its 95 % interval, where one was computed; without one it is written as a bare
    number.
    """

    value: Number
    low: Number | None = None
    high: Number | None = None

    @model_serializer
    def _as_written(self) -> float | dict[str, float | None]:
        if self.low is None and self.high is None:
            return self.value
        return {"value": self.value, "low": self.low, "high": self.high}


def as_figure(value: Any) -> Any:
    """Returns a bare number as a figure without interval, None for what has no finite value."""
    if isinstance(value, int | float):
        value = {"value": value}
    if not isinstance(value, dict):
        return value
    number = value.get("value")
    finite = not isinstance(number, float) or math.isfinite(number)
    return value if "value" in value and finite else None


Measured = Annotated[Figure | None, BeforeValidator(as_figure)]
"""A figure, None where it was not measured."""


class Cost(Part):
    """What it took to draw a model's images, and to train and keep its adapter."""

    seconds: Number | None = None
    peak_memory_bytes: Count | None = None
    storage_bytes: Count | None = None
    training_seconds: Number | None = None


class Neighbour(Part):
    """Accuracy on another concept before and after, in percent."""

    name: str
    before: Number
    after: Number


class ModelRecord(Part):
    """One model under the judge; `rl_unlearn.evaluation.comparison` defines the figures."""

    name: str = ""
    ua: Measured = None
    ira: Measured = None
    ira_near: Measured = None
    ira_far: Measured = None
    ira_all: Measured = None
    cra: Measured = None
    cra_all: Measured = None
    coherence: Measured = None
    target_object: Measured = None
    target_style: Measured = None
    seen_when_asked: dict[str, dict[str, dict[str, Number]]] = {}
    """Domain, concept asked for, concept seen: percent of its images."""
    seen_as: dict[str, Count] = {}
    """Images that ask for the concept, by what the judge sees on them."""
    similarity: Measured = None
    clip_score: Measured = None
    confidence: Measured = None
    anchor: Measured = None
    spread: Measured = None
    anchor_kid: Measured = None
    kid: Measured = None
    fid: Measured = None
    feature_extractor: str = ""
    broken: bool = False
    verdict: str = ""
    neighbours: list[Neighbour] = []
    cost: Cost = Cost()


class Counts(Part):
    """Images that were judged."""

    target_images: Count | None = None
    other_images: Count | None = None


class Protocol(Part):
    """How the images were drawn and judged."""

    judge: str = ""
    image_judge: str = ""
    """What tells whether an image has the trait, if one is to be forgotten."""
    scheduler: str = ""
    """`evaluation.scheduler`, empty for the kernel that training samples with."""
    steps: Count | None = None
    seeds: list[int] = []
    prompts: Count | None = None
    images: Count | None = None
    clip: str = ""
    definitions: dict[str, str] = {}

    @property
    def drawn_by(self) -> str:
        """What drew the images, in words."""
        steps = "" if self.steps is None else f" in {self.steps} steps"
        return f"{self.scheduler or KERNEL}{steps}"


def without_nulls(content: Any) -> Any:
    """Returns the content without nulls: NaN is written as null, and stands for a thing that was
    not measured.
    """
    if isinstance(content, dict):
        return {key: without_nulls(value) for key, value in content.items() if value is not None}
    if isinstance(content, list):
        return [without_nulls(value) for value in content if value is not None]
    return content


class Evaluation(Part, Versioned):
    """The file's content, and what a comparison prints."""

    images_used: Count | None = None
    updates: Count | None = None
    before: ModelRecord | None = None
    """The headline figures of the untouched model."""
    after: ModelRecord | None = None
    """Those of the run's own."""
    counts: Counts = Counts()
    protocol: Protocol = Protocol()
    models: list[ModelRecord] = []
    """All figures: first of the untouched model, then of each adapter that was judged."""
    wall_seconds: Number | None = None
    """Time of training and evaluation."""
    seed: int | None = None
    concept: str = ""

    _without_nulls = model_validator(mode="before")(without_nulls)


def other_name(scheduler: str | None, steps: int) -> str:
    """Returns the name of an evaluation by a scheduler, or with None by the training's kernel,
    where the run's own is by another one.
    """
    return f"evaluation-{scheduler or 'kernel'}-{steps}.json"


def read_evaluation(path: Path) -> Evaluation | None:
    """Returns the content of an `evaluation.json`, None where there is none; DataError if it is
    damaged or newer.
    """
    return read_versioned(path, Evaluation, REMEDY)
