"""Shipped configurations by name, from any folder: `--config canvas`, `--space seeds`.

A bare name is first the shipped file's, so that it means the same everywhere; `./NAME` is always a
file of one's own.
"""

import difflib
import os
from contextlib import suppress
from pathlib import Path

from rl_unlearn.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"
SPACES = CONFIGS / "sweeps"
DEFAULT = "canvas"
"""The recipe that the defaults alone follow, too."""


def names(folder: Path = CONFIGS) -> list[str]:
    """Returns the names of what is shipped in a folder, in order of the alphabet."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def config_file(given: str) -> Path:
    """Returns the configuration that `--config` means.

    Raises ConfigError for a bare name that is neither shipped nor a file.
    """
    return _file("--config", given, CONFIGS)


def space_file(given: str) -> Path:
    """Returns the space of a sweep that `--space` means, likewise."""
    return _file("--space", given, SPACES)


def shipped(name: str) -> Path:
    """Returns the shipped configuration of that name; raises ConfigError if there is none."""
    if name not in names():
        raise ConfigError(f"{name}: no shipped name{_nearest(name, CONFIGS)}")
    return CONFIGS / f"{name}.yaml"


def title(name: str) -> str:
    """Returns what a shipped configuration says it is, on its first line."""
    first, *_ = shipped(name).read_text(encoding="utf-8").splitlines()
    return first.removeprefix("# ")


def _file(flag: str, given: str, folder: Path) -> Path:
    own = Path(given)
    if os.sep in given:
        return own
    if given in names(folder):
        return folder / f"{given}.yaml"
    with suppress(OSError):  # a name that no file can have
        if own.exists():
            return own
    raise ConfigError(
        f"{flag} {given}: neither a shipped name nor a file in this folder{_nearest(given, folder)}"
    )


def _nearest(given: str, folder: Path) -> str:
    near = difflib.get_close_matches(Path(given).stem, names(folder), n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"; {meant}shipped are {', '.join(names(folder))}"
