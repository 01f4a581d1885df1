"""One Config from its layers: defaults < files < environment < command line, each value knowing
where it came from.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from experiments import presets, strict_yaml
from experiments.absolute import KEYS, anchored
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.files.places import check_local, check_store, is_address

PREFIX = "RL_UNLEARN__"
_FUNCTIONS = ("reward.images", "selection.image", "evaluation.image_judge")
PLACES = ("output", *(key for key in KEYS if key not in _FUNCTIONS))
"""Keys that are the name of a file or folder."""


@dataclass(frozen=True)
class Setting:
    """A value and the file, variable or argument that set it."""

    value: Any
    source: str


@cache
def fields() -> dict[str, FieldInfo]:
    """Returns every dotted key with its field; sections stand under their own name too."""
    known: dict[str, FieldInfo] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            known[prefix + name] = field
            if is_section(field):
                walk(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]

    walk(Config, "")
    return known


def is_section(field: FieldInfo) -> bool:
    """Returns whether a field holds further keys."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def load(
    files: Iterable[str] = (),
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Returns the validated configuration; a ConfigError names the first thing that is wrong."""
    settings = from_files(files)
    for variable, text in sorted((os.environ if environ is None else environ).items()):
        if variable.startswith(PREFIX):
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            settings |= _from_text(key, text, f"variable {variable}")
    return combined(settings, from_overrides(overrides))


def combined(*layers: Mapping[str, Setting]) -> Config:
    """Returns the validated configuration of settings by dotted keys; later layers win."""
    settings = {key: setting for layer in layers for key, setting in layer.items()}
    return anchored(validate(settings))


def from_files(files: Iterable[str]) -> dict[str, Setting]:
    """Returns the settings of YAML files, or of shipped ones by name; later ones win."""
    settings: dict[str, Setting] = {}
    for file in files:
        settings |= from_mapping(strict_yaml.read(presets.config_file(file)), file)
    return settings


def from_overrides(overrides: Iterable[str]) -> dict[str, Setting]:
    """Returns the settings of KEY=VALUE words."""
    settings: dict[str, Setting] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(
                f"argument {override!r} is not KEY=VALUE; write for example concept=frog"
            )
        settings |= _from_text(key, text, "command line")
    return settings


def to_override(key: str, value: Any) -> str:
    """Returns a setting as the KEY=VALUE of a command; inverse of :func:`from_overrides`."""
    if isinstance(value, tuple | set):
        value = list(value)
    return f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}"


def recorded(file: Path, overrides: Iterable[str] = ()) -> Config:
    """Returns the configuration that a folder holds.

    The environment does not change it: variables are for new runs.
    """
    return load([str(file)], overrides, environ={})


def validate(settings: Mapping[str, Setting]) -> Config:
    """Returns the configuration of settings by dotted keys."""
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = setting.value
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, settings)) from error
    config = _placed(config, settings)
    for key in settings.keys() & PLACES:
        places = value(config, key)
        check_local(
            places if isinstance(places, tuple) else [places], f"{settings[key].source}: {key}="
        )
    return config


def _placed(config: Config, settings: Mapping[str, Setting]) -> Config:
    """Returns the configuration with a local `output`: an address given for it is its `mirror`."""
    if is_address(config.output):
        source = settings["output"].source
        check_store(config.output, f"{source}: output=")
        if "mirror" in settings and config.mirror != config.output:
            raise ConfigError(
                f"{source}: output= is an address, and {settings['mirror'].source} has another "
                "mirror=: give the folder as output= and the address as mirror="
            )
        local = Config.model_fields["output"].default
        config = config.model_copy(update={"output": local, "mirror": config.output})
    elif config.mirror is not None:
        check_store(config.mirror, f"{settings['mirror'].source}: mirror=")
    return config


def dump(config: Config) -> str:
    """Returns YAML that `load` reads back to the same configuration."""
    return strict_yaml.dump(config.model_dump(mode="json"))


def from_mapping(mapping: Mapping[Any, Any], source: str, prefix: str = "") -> dict[str, Setting]:
    """Returns the settings of a nested or dotted mapping; values are not looked at.

    Raises ConfigError for an unknown or double key.
    """
    settings: dict[str, Setting] = {}
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        field = _field(key, source, section=True)
        if not is_section(field):
            new = {key: Setting(value, source)}
        elif isinstance(value, dict):
            new = from_mapping(value, source, f"{key}.")
        elif value is None:
            new = {}
        else:
            raise ConfigError(f"{source}: '{key}' is a section; write its keys below it, indented")
        for twice in settings.keys() & new.keys():
            raise ConfigError(f"{source}: duplicate key '{twice}'")
        settings |= new
    return settings


def _from_text(key: str, text: str, source: str) -> dict[str, Setting]:
    field = _field(key, source)
    kinds = _kinds(field.annotation)
    if type(None) in kinds and text in ("null", "~"):
        value: Any = None
    elif get_origin(field.annotation) is dict:
        value = strict_yaml.parse(text, f"{source}: {key}")
    elif get_origin(field.annotation) is tuple and not text.startswith("["):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif str in kinds:
        value = text
    else:
        value = strict_yaml.parse(text, f"{source}: {key}")
    return {key: Setting(value, source)}


def _kinds(annotation: Any) -> set[Any]:
    """Returns the types an annotation accepts; a literal counts as the type of its values."""
    parts = get_args(annotation)
    if not parts or get_origin(annotation) is tuple:
        return {annotation if isinstance(annotation, type) else type(annotation)}
    return set().union(*(_kinds(part) for part in parts))


def _field(key: str, source: str, section: bool = False) -> FieldInfo:
    field = fields().get(key)
    if field is None:
        raise ConfigError(f"{source}: unknown key '{key}'{suggestion(key)}")
    if is_section(field) and not section:
        example = next(name for name in fields() if name.startswith(f"{key}."))
        raise ConfigError(
            f"{source}: '{key}' is a section; set one of its keys, such as {example}=..."
        )
    return field


def suggestion(key: str) -> str:
    """Returns the nearest known keys: same last part first, then spelling."""
    leaves = [name for name, field in fields().items() if not is_section(field)]
    last = key.rpartition(".")[2]
    near = [name for name in leaves if name.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, leaves, n=1, cutoff=0.6)
    if not near:
        ends = difflib.get_close_matches(
            last, [name.rpartition(".")[2] for name in leaves], n=1, cutoff=0.6
        )
        near = [name for name in leaves if name.rpartition(".")[2] in ends]
    if not near:
        return "; `rl-unlearn config show` lists all keys"
    return f"; did you mean {' or '.join(repr(name) for name in near[:3])}?"


def _explain(error: ValidationError, settings: Mapping[str, Setting]) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    while key and key not in settings:
        key = key.rpartition(".")[0]
    if not key:
        return f"configuration: {wish(first['msg'])}"
    setting = settings[key]
    value = repr(setting.value)
    shown = value if len(value) <= 60 else value[:57] + "..."
    meaning = " ".join((fields()[key].description or "").split()).rstrip(".")
    return f"{setting.source}: {key}={shown}: {wish(first['msg'])} ({meaning})"


def wish(message: str) -> str:
    """Returns pydantic's sentence as a wish."""
    for lead in ("Input should be ", "Value error, ", "String should "):
        if message.startswith(lead):
            return (
                "must be " if lead[0] == "I" else "must " if lead[0] == "S" else ""
            ) + message.removeprefix(lead)
    return message[:1].lower() + message[1:]


def value(config: Config, key: str) -> Any:
    """Returns what a configuration holds at a dotted key such as `learner.lr`.

    A section's name gives the section.
    """
    part: Any = config
    for name in key.split("."):
        part = getattr(part, name)
    return part
