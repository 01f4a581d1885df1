"""Rewards that are functions of the images alone, by name: built in, a classifier from a folder, or
the caller's own.

A name is looked up, never imported: a configuration file cannot make the program run code.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rl_unlearn import plugins, reward_names
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.models.classifier_folders import load_folder

ImageReward = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, " batch"]]
"""From images in [0, 1] to one finite number each."""

_JPEG_QUALITY = 95


def jpeg_kilobytes(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
    """Size as a JPEG file of quality 95 in kB: the (in)compressibility of DDPO (Black et al. 2023,
    sec. 4.1).
    """
    sizes = []
    for image in (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=_JPEG_QUALITY)
        sizes.append(len(file.getvalue()) / 1000)
    return torch.tensor(sizes)


BUILT_IN: Mapping[str, ImageReward] = {"jpeg_kilobytes": jpeg_kilobytes}


def find(config: Config, given: Mapping[str, ImageReward]) -> dict[str, ImageReward]:
    """Returns the functions that ``reward.images`` names, in its order: built in, of an installed
    package, or the caller's own, which are ``given``.

    Raises ConfigError for a name nobody registered, DataError for a classifier folder that cannot
    be used.
    """
    known, folders = {**BUILT_IN, **given}, classifiers(config)
    functions: dict[str, ImageReward] = {}
    for name in config.reward.images:
        if name in folders:
            functions[name] = classifier("reward.images", name, config)
        elif name in known:
            functions[name] = known[name]
        elif name in plugins.names(plugins.REWARDS):
            functions[name] = plugins.load(plugins.REWARDS, name)
        else:
            there = ", ".join([*known, *plugins.names(plugins.REWARDS)])
            raise ConfigError(
                f"reward.images: {name!r} is no registered reward: use {there} or "
                "classifier:FOLDER:LABEL, install a package that adds it, or pass the function "
                "from a program, unlearn(rewards={name: (function, weight)})"
            )
    return functions


def evaluate(
    rewards: Mapping[str, ImageReward], images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch rewards"]:
    """Returns one column for each reward, on the CPU.

    Raises TrainingError for a wrong shape or a number that is not finite.
    """
    columns = [torch.zeros(len(images), 0)]
    for name, reward in rewards.items():
        column = torch.as_tensor(reward(images), dtype=torch.float32).detach().cpu()
        if column.shape != (len(images),) or not torch.isfinite(column).all():
            raise TrainingError(
                f"the image reward {name!r} must give one finite number for each of {len(images)} "
                f"images; it gave shape {tuple(column.shape)}"
                + ("" if torch.isfinite(column).all() else " with NaN or infinity")
            )
        columns.append(column[:, None])
    return torch.cat(columns, dim=1)


def classifiers(config: Config) -> dict[str, tuple[Path, str]]:
    """Folder and label of the classifiers that reward or select by images alone, by their names.

    Raises ConfigError for a name that is not whole.
    """
    return {
        name: classifier_parts(key, name)
        for key, name in _named(config)
        if reward_names.classifier(name) is not None
    }


def classifier_parts(key: str, name: str) -> tuple[Path, str]:
    """Folder and label of a classifier's name, the value of that key; ConfigError if it is not
    whole.
    """
    folder, label = reward_names.classifier(name) or ("", "")
    if not folder or not label:
        raise ConfigError(f"{key}: {name!r} must be {reward_names.named('FOLDER', 'LABEL')}")
    return Path(folder), label


def _named(config: Config) -> Iterator[tuple[str, str]]:
    yield from (("reward.images", name) for name in config.reward.images)
    trait = reward_names.trait(config.concept)
    if trait is not None:
        yield "concept", trait
    if config.selection.image is not None:
        yield "selection.image", config.selection.image


def classifier(key: str, name: str, config: Config) -> ImageReward:
    """Returns the log-probability that a classifier of a folder, the value of that key, gives its
    label.
    """
    folder, label = classifier_parts(key, name)
    # The judge compares weights, too; by its path it is known before a night of training.
    if folder.resolve().is_relative_to(Path(config.evaluation.judge).resolve()):
        raise ConfigError(
            f"{key}: {name!r} is the judge that reports the results: take another classifier"
        )
    classifier = load_folder(folder, (label,), device_of(config.model))
    everything = replace(classifier, rows=torch.arange(classifier.classes))
    row = int(classifier.rows[0])

    def log_probability(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Returns the log-probability of the label, in nats."""
        logits, _ = everything(images)
        return logits.log_softmax(dim=1)[:, row]

    return log_probability
