"""What installed packages add by entry points: rewards, judges, estimators and families.

A configuration only names them. Code comes from what somebody has installed, never from a file, and
is imported when a run asks for it.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rl_unlearn.errors import ConfigError

REWARDS = "rl_unlearn.rewards"
"""Functions of images in [0, 1], shaped (batch, 3, height, width): a finite number for each."""
JUDGES = "rl_unlearn.judges"
"""From a `Config` to a `rl_unlearn.evaluation.judges.ProbabilityJudge`."""
ESTIMATORS = "rl_unlearn.estimators"
"""A `rl_unlearn.estimators.Estimator` whose name is that of the entry point."""

LAYOUTS = "rl_unlearn.layouts"
"""A `rl_unlearn.layouts.layout.Layout`, without torch, by the class of its pipeline."""
FAMILIES = "rl_unlearn.families"
"""A subclass of `rl_unlearn.families.family.Family`, by the class of its pipeline."""


def names(group: str) -> tuple[str, ...]:
    """Returns what is installed of a group, in order of the alphabet."""
    return tuple(sorted(_installed(group)))


def load(group: str, name: str) -> Any:
    """Imports and returns what has this name.

    Raises ConfigError, which names the package, where that fails or two packages have the name.
    """
    found = _installed(group)[name]
    packages = ", ".join(sorted(_package(point) for point in found))
    if len(found) > 1:
        raise ConfigError(f"{name!r} is added by {packages}: remove all but one of them")
    try:
        return found[0].load()
    except Exception as error:
        raise ConfigError(
            f"{name!r} of the package {packages} cannot be imported: {type(error).__name__}: "
            f"{error}; mend or remove that package"
        ) from error


def version(group: str, name: str) -> str:
    """Returns the package that adds it, with its version: `acme-rewards 1.2`."""
    return " and ".join(sorted(_package(point) for point in _installed(group)[name]))


@cache
def _installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _package(point: EntryPoint) -> str:
    return "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"
