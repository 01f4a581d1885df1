"""Packages that a plain installation leaves out: which extra brings them, and who asks for them."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Extra:
    """A package that not everybody needs."""

    package: str
    """Its name where packages are installed from."""
    extra: str
    """The extra of rl-unlearn that brings it."""
    asked_by: str
    """What cannot be had without it."""

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f"pip install 'rl-unlearn[{self.extra}]'"


EXTRAS = {
    "optuna": Extra("optuna", "sweep", "search: optuna"),
    "wandb": Extra("wandb", "tracking", "trackers=wandb"),
    "mlflow": Extra("mlflow-skinny", "tracking", "trackers=mlflow"),
    "resvg_py": Extra("resvg_py", "canvas", "the stage sprites of experiments.canvas"),
}
"""By the names that they are imported by."""


def installed(module: str) -> bool:
    """Returns whether a module can be imported; a mere folder, as W&B leaves behind, cannot."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
