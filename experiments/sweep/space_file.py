"""The space file: read strictly, and checked against the configuration before anything starts."""

import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.tuning import Draw
from experiments import settings, strict_yaml
from experiments.extras import EXTRAS, installed
from experiments.sweep.space import File, Mix, PerTrial, Space, configured
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, UserError

MAX_TRIALS = 10_000
RANGES = ("uniform", "loguniform", "randint")
NOT_VARIED = ("name", "output", "mirror", "cluster.inline", "cluster.address")
REPORTED = (
    "forgotten",
    "retained",
    "coherence",
    "other",
    "score",
    "images",
    "judge_ua",
    "judge_coherence",
    "judge_ira",
    "judge_cra",
    "updates",
    "wall_seconds",
)
"""Figures of a trial that may be objectives."""


def read(path: Path, base: Config) -> Space:
    """Returns the space in a file, every value tried on `base`; a ConfigError names the first thing
    that is wrong.
    """
    if not path.is_file():
        raise ConfigError(
            f"space file {path}: no such file; check the path, or start from the shipped `seeds`"
        )
    source = str(path)
    space = _space(_file(strict_yaml.read(path), source), source)
    _check_count(space, source)
    _check_search(space, source)
    _check_values(space, base, source)
    return space


def _file(content: dict[str, Any], source: str) -> File:
    for name in content:
        if name not in File.model_fields:
            raise ConfigError(f"{source}: unknown key {name!r}{_nearest(name, File.model_fields)}")
    try:
        return File.model_validate(
            {name: value for name, value in content.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        known = PerTrial.model_fields if key.startswith("per_trial.") else ()
        hint = _nearest(key.rpartition(".")[2], known) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{source}: {key}: {settings.wish(first['msg'])}{hint}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _space(file: File, source: str) -> Space:
    lists: dict[str, list[Any]] = {}
    choices: dict[str, list[Any]] = {}
    ranges: dict[str, Draw] = {}
    for key, setting in settings.from_mapping(file.space, source).items():
        where, domain = f"{source}: space.{key}", setting.value
        _check_key(key, where)
        if isinstance(domain, list):
            lists[key] = _values(domain, where)
        elif isinstance(domain, dict) and len(domain) == 1:
            (kind, content), kinds = next(iter(domain.items())), (*RANGES, "choice")
            if kind not in kinds:
                raise ConfigError(f"{where}: unknown kind {kind!r}{_nearest(str(kind), kinds)}")
            if kind == "choice":
                choices[key] = _values(content, where)
            else:
                ranges[key] = _range(kind, content, where)
        else:
            raise ConfigError(
                f"{where}: give a list such as [1, 2], or one of {{uniform: [lo, hi]}}, "
                f"{{loguniform: [lo, hi]}}, "
                "{randint: [lo, hi]}, {choice: [...]}"
            )
    mixes = tuple(
        _mix(mapping, f"{source}: together[{i}]") for i, mapping in enumerate(file.together)
    )
    for mix in mixes:
        for key in mix.settings.keys() & {*lists, *choices, *ranges}:
            raise ConfigError(f"{source}: {key} is in `space` and in `together`; keep one")
    if not (lists or choices or ranges or mixes):
        raise ConfigError(
            f"{source}: varies nothing; put settings below `space:`, such as `seed: [0, 1, 2]`"
        )
    return Space(file, lists, choices, ranges, mixes)


def _mix(mapping: dict[str, Any], where: str) -> Mix:
    name = mapping.get("name")
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigError(f"{where}: name must be a word, not {name!r}")
    varied = settings.from_mapping(
        {key: value for key, value in mapping.items() if key != "name"}, where
    )
    for key in varied:
        _check_key(key, where)
    if not varied and name is None:
        raise ConfigError(
            f"{where}: is empty; write settings such as `learner.batch: 64`, or give it a name"
        )
    return Mix(name, {key: setting.value for key, setting in varied.items()})


def _check_key(key: str, where: str) -> None:
    if key in NOT_VARIED:
        raise ConfigError(f"{where}: {key} is the same for all trials; set it on the command line")


def _values(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: must be a list with at least one value")
    for i, value in enumerate(values):
        if any(type(value) is type(other) and value == other for other in values[:i]):
            raise ConfigError(f"{where}: {value!r} stands twice; keep one")
    return values


def _range(kind: Any, content: Any, where: str) -> Draw:
    numbers = (int,) if kind == "randint" else (int, float)
    fine = isinstance(content, list) and len(content) == 2
    if not fine or not all(
        isinstance(v, numbers) and not isinstance(v, bool) and math.isfinite(v) for v in content
    ):
        whole = "whole " if kind == "randint" else ""
        raise ConfigError(f"{where}: {kind} takes two {whole}numbers, [lo, hi], not {content!r}")
    low, high = content
    if low >= high:
        raise ConfigError(
            f"{where}: {kind} [{low}, {high}]: the first number must be the smaller one"
        )
    if kind == "loguniform" and low <= 0:
        raise ConfigError(
            f"{where}: loguniform [{low}, {high}]: both numbers must be above 0; use uniform"
        )
    return Draw(kind, (low, high + 1) if kind == "randint" else (float(low), float(high)))


def _check_count(space: Space, source: str) -> None:
    if space.drawn and space.file.samples is None:
        what = (
            "`search: optuna`"
            if space.search == "optuna"
            else ", ".join([*space.choices, *space.ranges])
        )
        raise ConfigError(f"{source}: {what} needs `samples: N`, how often to draw")
    if not space.drawn and space.file.samples not in (None, 1):
        raise ConfigError(
            f"{source}: samples: {space.file.samples} would repeat the same trials; leave it out"
        )
    if space.trials > MAX_TRIALS:
        raise ConfigError(
            f"{source}: asks for {space.trials:,} trials, more than {MAX_TRIALS:,}: shorten its "
            "lists, or draw less"
        )


def _check_search(space: Space, source: str) -> None:
    file = space.file
    if space.search == "optuna" and not installed("optuna"):
        raise ConfigError(
            f"{source}: search: optuna: not installed; {EXTRAS['optuna'].remedy}, or leave it out"
        )
    if file.search == "grid" and space.drawn:
        raise ConfigError(
            f"{source}: search: grid cannot draw {', '.join([*space.choices, *space.ranges])}; use "
            "random"
        )
    if file.objectives and space.search != "optuna":
        raise ConfigError(
            f"{source}: objectives need `search: optuna`, which alone learns from trials"
        )
    for name in file.objectives:
        if name not in REPORTED:
            raise ConfigError(
                f"{source}: objectives: unknown figure {name!r}{_nearest(name, REPORTED)}"
            )
    if file.stop and any(name.startswith("judge_") for name in file.objectives):
        raise ConfigError(
            f"{source}: a trial that asha stopped is never judged; take objectives of the "
            "selection CLIP"
        )
    if file.grace and not file.stop:
        raise ConfigError(f"{source}: grace has a meaning only with `stop: asha`")


def _check_values(space: Space, base: Config, source: str) -> None:
    """Tries every single value, and the ends of every range, one by one on the configuration."""
    for name, varied in (("space", space.lists), ("space", space.choices)):
        for key, values in varied.items():
            for value in values:
                configured(base, {key: value}, f"{source}: {name}")
    for key, draw in space.ranges.items():
        low, high = draw.arguments
        for value in (low, high - 1 if draw.kind == "randint" else high):
            try:
                configured(base, {key: value}, f"{source}: space")
            except UserError as error:
                hint = "; use randint" if "integer" in str(error) and draw.kind == "uniform" else ""
                raise ConfigError(f"{error}{hint}") from error
    for mix in space.mixes:
        configured(base, mix.settings, f"{source}: together")
