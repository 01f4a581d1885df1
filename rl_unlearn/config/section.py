"""What all sections of the configuration are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rl_unlearn.files.text import cleaned, twice

Strings = Annotated[tuple[str, ...], Field(strict=False)]
"""Also from a list, as YAML has them."""


class Section(BaseModel):
    """Strict and frozen: no silent conversion, no unknown key, no change after start."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


def each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the texts; raises ValueError if one is empty or stands there twice."""
    double = twice(texts)
    if double is not None:
        raise ValueError(f"{double!r} stands there twice: keep one")
    if not all(map(cleaned, texts)):
        raise ValueError("an empty word stands there: remove it")
    return texts
