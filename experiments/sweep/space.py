"""What a sweep varies, and the settings of its trials."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.tuning import Draw
from experiments import settings
from experiments.settings import Setting
from rl_unlearn.config import Config

TOGETHER = "together"
"""Under which Tune draws what varies together, by its position."""
Settings = dict[str, Any]


class PerTrial(BaseModel):
    """What the trial's own process reserves; actors that it starts reserve their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)


class File(BaseModel):
    """The space file as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    space: dict[str, Any] = {}
    together: list[dict[str, Any]] = []
    samples: int | None = Field(None, ge=1)
    search: Literal["grid", "random", "optuna"] | None = None
    objectives: dict[str, Literal["max", "min"]] = {}
    stop: Literal["asha"] | None = None
    grace: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)
    per_trial: PerTrial = PerTrial()


@dataclass(frozen=True)
class Mix:
    """Settings that vary together, under one name."""

    name: str | None
    settings: Settings


@dataclass(frozen=True)
class Space:
    """A checked space file.

    Lists are gone through, or chosen from where a searcher draws; ranges are drawn from.
    """

    file: File
    lists: Mapping[str, list[Any]]
    choices: Mapping[str, list[Any]]
    ranges: Mapping[str, Draw]
    mixes: tuple[Mix, ...]

    @property
    def search(self) -> Literal["grid", "random", "optuna"]:
        """Who finds the settings."""
        return self.file.search or ("random" if self.drawn else "grid")

    @property
    def drawn(self) -> bool:
        """Whether settings are not known beforehand."""
        return bool(self.choices or self.ranges) or self.file.search == "optuna"

    @property
    def keys(self) -> list[str]:
        """Every key that varies, in the order of the file."""
        mixed = dict.fromkeys(key for mix in self.mixes for key in mix.settings)
        return [*mixed, *self.lists, *self.choices, *self.ranges]

    @property
    def objectives(self) -> dict[str, Literal["max", "min"]]:
        """What Optuna improves on; empty for the other searchers."""
        chosen = self.file.objectives or {"forgotten": "max", "retained": "max"}
        return dict(chosen) if self.search == "optuna" else {}

    @property
    def trials(self) -> int:
        """How many trials there will be."""
        samples = self.file.samples or 1
        if self.search == "optuna":
            return samples
        return (
            samples
            * math.prod(len(values) for values in self.lists.values())
            * max(1, len(self.mixes))
        )

    def draws(self) -> dict[str, Draw]:
        """Returns what varies as Tune draws it, whose values must be plain: anything else goes as
        JSON text, and `mix` by position.
        """
        kind: Literal["choice", "grid_search"] = (
            "choice" if self.search == "optuna" else "grid_search"
        )
        draws = {TOGETHER: Draw(kind, (list(range(len(self.mixes))),))} if self.mixes else {}
        draws |= {
            key: Draw(kind, ([_plain(value) for value in values],))
            for key, values in self.lists.items()
        }
        draws |= {
            key: Draw("choice", ([_plain(v) for v in values],))
            for key, values in self.choices.items()
        }
        return draws | dict(self.ranges)

    def settings(self, drawn: Mapping[str, Any]) -> Settings:
        """Returns the configuration's settings behind what Tune drew."""
        chosen: Settings = dict(self.mixes[drawn[TOGETHER]].settings) if self.mixes else {}
        for key in (*self.lists, *self.choices, *self.ranges):
            value = drawn[key].item() if hasattr(drawn[key], "item") else drawn[key]
            for meant in (*self.lists.get(key, ()), *self.choices.get(key, ())):
                if not isinstance(meant, _SCALARS) and _plain(meant) == value:
                    value = meant
            chosen[key] = value
        return chosen

    def mix(self, chosen: Settings) -> str | None:
        """Returns the name that the file gives to the part of a trial's settings that varies
        together.
        """
        fits = [
            mix
            for mix in self.mixes
            if all(chosen.get(key) == value for key, value in mix.settings.items())
        ]
        return max(fits, key=lambda mix: len(mix.settings)).name if fits else None

    def enumerated(self) -> Iterator[Settings]:
        """Yields the settings of every trial, if none is drawn."""
        if self.drawn:
            return
        for mix in self.mixes or (Mix(None, {}),):
            for values in itertools.product(*self.lists.values()):
                yield mix.settings | dict(zip(self.lists, values, strict=True))


_SCALARS = (str, int, float, bool, type(None))


def _plain(value: Any) -> Any:
    return value if isinstance(value, _SCALARS) else json.dumps(value)


def configured(base: Config, varied: Mapping[str, Any], source: str) -> Config:
    """Returns `base` with other settings."""
    known = {
        key: Setting(settings.value(base, key), "configuration")
        for key, field in settings.fields().items()
        if not settings.is_section(field)
    }
    return settings.validate(known | {key: Setting(value, source) for key, value in varied.items()})
