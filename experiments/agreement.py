"""Configuration files beside what a run, or an adapter, says of itself: what may differ is taken,
what contradicts is refused.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from experiments import settings
from experiments.settings import Setting
from rl_unlearn.errors import ConfigError

FREE = ("evaluation", "attack", "cluster", "output", "tensorboard", "trackers")
"""Sections and keys that no adapter was made by: how it is judged, and where things are done."""


def taken(
    files: Iterable[str],
    overrides: Iterable[str],
    made_with: Mapping[str, Setting],
    whose: str,
    free: Collection[str] = FREE,
    revision_asked: str | None = None,
) -> dict[str, Setting]:
    """Returns what of the files is to be taken: what is `free`, or what `made_with` leaves open.

    All else must be as it was made with, unless an override settles it. Raises ConfigError, which
    names the keys that differ. `revision_asked` is the hub's branch that stands for its commit.
    """
    given = settings.from_files(files)
    if not given:
        return {}
    said, before = settings.combined(given), settings.combined(made_with)
    settled = settings.from_overrides(overrides)
    chosen: dict[str, Setting] = {}
    differing: list[str] = []
    for key, setting in given.items():
        here, there = settings.value(said, key), settings.value(before, key)
        alike: list[Any] = [there, revision_asked] if key == "model.revision" else [there]
        if key in settled:
            continue
        if key not in made_with or any(key == name or key.startswith(f"{name}.") for name in free):
            chosen[key] = setting
        elif here not in alike:
            differing.append(f"{key} ({here} in {setting.source}, {there} there)")
    if differing:
        raise ConfigError(
            f"--config contradicts {whose}: {', '.join(differing[:3])}; leave "
            f"{'it' if len(differing) == 1 else 'them'} out of the file, or settle it by KEY=VALUE"
        )
    return chosen
