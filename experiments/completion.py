"""What may stand where on the command line, read from its parser, for scripts that complete it."""

import argparse
from argparse import Action, ArgumentParser
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from experiments import presets, settings

FILES = {"FILE", "DIR", "FOLDER", "PATH", "RUN", "RUN_OR_ADAPTER", "NAME_OR_FILE"}
"""Metavars of arguments that name files or folders."""
NAMES = {"config": presets.CONFIGS, "space": presets.SPACES}
"""Arguments that may be the name of a shipped file, and where these are."""


@dataclass(frozen=True)
class Slot:
    """What may stand in one place: words, files, and KEY=VALUE of the configuration."""

    words: tuple[str, ...] = ()
    files: bool = False
    keys: bool = False


@dataclass(frozen=True)
class Option:
    """An option of a verb; `slot` is what follows it, None where nothing does."""

    flag: str
    help: str
    slot: Slot | None


@dataclass(frozen=True)
class Verb:
    """A verb, its options, and what else it takes."""

    name: str
    help: str
    options: list[Option]
    rest: Slot


def verbs(parser: ArgumentParser) -> list[Verb]:
    """Returns all verbs of the command line, with what they take."""
    (table,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in table._choices_actions}
    return [_verb(name, helps[name], verb) for name, verb in table.choices.items()]


def values() -> dict[str, tuple[str, ...]]:
    """Returns the keys of the configuration, with their values where these can be counted."""
    return {
        key: _values(known.annotation)
        for key, known in settings.fields().items()
        if not settings.is_section(known)
    }


def _values(annotation: Any) -> tuple[str, ...]:
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return tuple(word for part in get_args(annotation) for word in _values(part))
    return ()


def _verb(name: str, help: str, parser: ArgumentParser) -> Verb:
    options = [
        Option(flag, action.help or "", None if action.nargs == 0 else _slot(action))
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    ]
    free = [_slot(action) for action in parser._actions if not action.option_strings]
    words = tuple(word for slot in free for word in slot.words)
    keys = parser.get_default("overrides") is not None  # among other words
    rest = Slot(words, any(s.files for s in free), keys or any(s.keys for s in free))
    return Verb(name, help, options, rest)


def _slot(action: Action) -> Slot:
    words = tuple(map(str, action.choices or ()))
    if action.dest in NAMES:
        words += tuple(presets.names(NAMES[action.dest]))
    return Slot(words, action.metavar in FILES, action.metavar == "KEY=VALUE")
