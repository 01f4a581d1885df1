"""What `evaluation.json` and `attacks.json` may hold; read from disk and therefore checked."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from experiments.report.figures import LARGEST
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object

REMEDY = "make the file again"
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=2**63)]


class Part(BaseModel):
    """Unknown keys are left alone: a newer evaluation may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Interval(Part):
    """A figure with its 95 % interval, where one was computed."""

    value: Number
    low: Number | None = None
    high: Number | None = None


def _measured(found: Any) -> Any:
    """A bare number is a figure without interval; an interval without a value was not measured."""
    if isinstance(found, int | float):
        return {"value": found}
    return None if isinstance(found, dict) and "value" not in found else found


Needed = Annotated[Interval, BeforeValidator(_measured)]
Figure = Annotated[Interval | None, BeforeValidator(_measured)]


class Cost(Part):
    seconds: Number | None = None
    peak_memory_bytes: Count | None = None
    storage_bytes: Count | None = None


class Neighbour(Part):
    name: str
    before: Number
    after: Number


class Measured(Part):
    """One model under the judge."""

    name: str = ""
    ua: Figure = None
    ira: Figure = None
    ira_all: Figure = None
    cra: Figure = None
    cra_all: Figure = None
    coherence: Figure = None
    similarity: Figure = None
    clip_score: Figure = None
    kid: Figure = None
    fid: Figure = None
    feature_extractor: str = ""
    broken: bool = False
    verdict: str = ""
    seen_when_asked: dict[str, dict[str, dict[str, Number]]] = {}
    neighbours: list[Neighbour] = []
    seen_as: dict[str, Count] = {}
    cost: Cost = Cost()


class Protocol(Part):
    judge: str = ""
    seeds: list[int] = []
    prompts: Count | None = None
    images: Count | None = None
    definitions: dict[str, str] = {}


class Counts(Part):
    target_images: Count | None = None
    other_images: Count | None = None


class Evaluation(Part):
    before: Measured | None = None
    after: Measured | None = None
    counts: Counts = Counts()
    protocol: Protocol = Protocol()
    models: list[Measured] = []


class Attack(Part):
    attack: str
    budget: str = ""
    before: Needed
    after: Needed
    images: Count | None = None
    seconds: Number | None = None


class Attacks(Part):
    concept: str = ""
    rows: list[Attack] = []
    definitions: dict[str, str] = Field(default_factory=dict)


Content = TypeVar("Content", bound=Part)


def read(path: Path, kind: type[Content]) -> Content | None:
    """The file's content, None where there is no file; DataError if it is damaged or says something
    else.
    """
    if not path.exists():
        return None
    found = read_object(path, REMEDY)
    try:
        return kind.model_validate(_without_nulls(found))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg'].lower()}: {REMEDY}") from error


def _without_nulls(content: Any) -> Any:
    """NaN is written as null; for the page that is a thing not measured."""
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    if isinstance(content, list):
        return [_without_nulls(value) for value in content if value is not None]
    return content
