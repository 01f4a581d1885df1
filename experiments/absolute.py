"""Paths of a configuration made absolute: a run that is used from another folder must find what it
was made with.
"""

from pathlib import Path
from typing import Any

from rl_unlearn import reward_names
from rl_unlearn.config import Config

KEYS = (
    "model.path", "model.config", "model.adapters", "lora.start",
    "prompts.target_file", "prompts.retain_file", "reward.clip",
    "reward.images", "selection.clip", "critic.start", "evaluation.judge",
    "selection.image", "evaluation.image_judge",
)  # fmt: skip
"""Settings that may hold a path. Only what is there is one: a name on the hub stays what it is."""


def anchored(config: Config) -> Config:
    """Returns the configuration with absolute paths.

    Inside a Ray job, whose folder does not outlive it, they stay as they were.
    """
    if "/runtime_resources/working_dir_files/" in str(Path.cwd()):
        return config
    for key in KEYS:
        section, name = key.split(".")
        part = getattr(config, section)
        before = getattr(part, name)
        after = _anchored(before)
        if after != before:
            config = config.model_copy(update={section: part.model_copy(update={name: after})})
    if (trait := reward_names.trait(config.concept)) is not None:
        config = config.model_copy(update={"concept": reward_names.concept(_anchored(trait))})
    return config


def _anchored(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_anchored, value))
    if isinstance(value, dict):
        return {_anchored(name): weight for name, weight in value.items()}
    if not isinstance(value, str):
        return value
    if (parts := reward_names.classifier(value)) is not None:
        folder, label = parts
        return reward_names.named(_anchored(folder), label) if folder else value
    return str(Path(value).absolute()) if value != "canvas" and Path(value).exists() else value
