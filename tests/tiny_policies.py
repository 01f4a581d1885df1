"""A policy of each family, and what is said of a folder that is not right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families

from rl_unlearn.config import Config, Model, Sampler
from rl_unlearn.errors import DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import model_folder
from rl_unlearn.policy import DiffusionPolicy

PROMPTS = ["A cat image in flat style.", "A dog image in noto style."]


def config(name: str, **changes: Any) -> Config:
    model = {"path": str(tiny_families.FOLDERS[name]()), "size": tiny_families.SIZE} | changes.pop(
        "model", {}
    )
    return tiny.config(model=model, **changes)


def policy(config: Config) -> DiffusionPolicy:
    return DiffusionPolicy(load_pipeline(config.model, config.sampler), config)


def refusals(folder: Path, error: type[Exception] = DataError) -> set[str]:
    """What the look at the files and the loading say; each must refuse."""
    said = set()
    looks: tuple[Callable[[], object], ...] = (
        lambda: model_folder.check(folder, Sampler(), tiny_families.SIZE),
        lambda: load_pipeline(Model(path=str(folder), size=tiny_families.SIZE)),
    )
    for look in looks:
        with pytest.raises(error) as caught:
            look()
        said.add(str(caught.value))
    return said
