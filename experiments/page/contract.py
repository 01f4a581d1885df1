"""What `evaluation.json` and `attacks.json` may hold; read from disk and therefore checked."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rl_unlearn.errors import DataError

MAX_BYTES = 2**24


class Part(BaseModel):
    """Unknown keys are left alone: a newer evaluation may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Interval(Part):
    """A figure with its 95 % interval, where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


def _measured(found: Any) -> Any:
    """A bare number is a figure without interval; an interval without a value was not measured."""
    if isinstance(found, int | float):
        return {"value": found}
    return None if isinstance(found, dict) and "value" not in found else found


Needed = Annotated[Interval, BeforeValidator(_measured)]
Figure = Annotated[Interval | None, BeforeValidator(_measured)]


class Cost(Part):
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    storage_bytes: int | None = None


class Neighbour(Part):
    name: str
    before: float
    after: float


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
    seen_when_asked: dict[str, dict[str, dict[str, float]]] = {}
    neighbours: list[Neighbour] = []
    seen_as: dict[str, int] = {}
    cost: Cost = Cost()


class Protocol(Part):
    judge: str = ""
    seeds: list[int] = []
    prompts: int | None = None
    images: int | None = None
    definitions: dict[str, str] = {}


class Counts(Part):
    target_images: int | None = None
    other_images: int | None = None


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
    images: int | None = None
    seconds: float | None = None


class Attacks(Part):
    concept: str = ""
    rows: list[Attack] = []
    definitions: dict[str, str] = Field(default_factory=dict)


Content = TypeVar("Content", bound=Part)


def read(path: Path, kind: type[Content]) -> Content | None:
    """The file's content, None where there is no file; DataError if it is damaged or says something else."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes: make it again")
    try:
        return kind.model_validate(_without_nulls(json.loads(path.read_text(encoding="utf-8"))))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg'].lower()}: make the file again") from error
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path} is no JSON file: make it again") from error


def _without_nulls(content: Any) -> Any:
    """NaN is written as null; for the page that is a thing not measured."""
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    if isinstance(content, list):
        return [_without_nulls(value) for value in content if value is not None]
    return content
