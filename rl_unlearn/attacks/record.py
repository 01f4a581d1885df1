"""`attacks.json`: how often each attack brought the concept back, written and read by one type."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from rl_unlearn.evaluation.record import (
    REMEDY,
    Count,
    Figure,
    Number,
    Part,
    as_figure,
    without_nulls,
)
from rl_unlearn.files.versioned import Versioned, read_versioned

NAME = "attacks.json"
Rate = Annotated[Figure, BeforeValidator(as_figure)]
"""A share of images, in percent."""


class Attack(Part):
    """One attack with one budget, against the untouched model and against the adapter."""

    attack: str
    budget: str = ""
    before: Rate
    after: Rate
    images: Count | None = None
    seconds: Number | None = None
    """Time of the attack on the adapter."""


class Attacks(Part, Versioned):
    """The file's content."""

    concept: str = ""
    seed: int | None = None
    rows: list[Attack] = Field(default_factory=list)
    definitions: dict[str, str] = Field(default_factory=dict)
    prefixes: dict[str, dict[str, str]] = Field(default_factory=dict)
    """The words that were found, by side and prompt."""

    _without_nulls = model_validator(mode="before")(without_nulls)


def read_attacks(path: Path) -> Attacks | None:
    """Returns the content of an `attacks.json`, None where there is none; DataError if it is
    damaged or newer.
    """
    return read_versioned(path, Attacks, REMEDY)
