"""What all contestants do alike: configuration, prompts, adapter's layers, reward."""

import argparse
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from experiments import settings
from rl_unlearn import image_rewards
from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.config import Config
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes, outcomes, reward_weights

Images = Float[Tensor, "batch 3 height width"]
NOT_FAR = 1e-6
"""Step size of what is only timed: the policy stays where it was."""


def configuration() -> Config:
    """Returns the configuration that a contestant's arguments name: a file, and overrides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    return settings.load([arguments.file], arguments.overrides, environ={})


def prompts(config: Config, round: int) -> list[int]:
    """Returns the prompts of a round, as rows of the prompt book."""
    book, share = PromptBook.from_config(config), config.prompts.target_fraction
    return book.draw(config.seed, round, config.rollout.images, share)


def texts(config: Config, round: int) -> list[str]:
    """Returns the prompts of a round in words."""
    book = PromptBook.from_config(config).prompts
    return [book[number].text for number in prompts(config, round)]


def layers(config: Config) -> str:
    """Returns the pattern of the layers that have an adapter."""
    return family_of(fetched_folder(config.model)).layers[config.lora.layers]


def reward(config: Config) -> Callable[[Images, Sequence[str]], Float[Tensor, " batch"]]:
    """Returns our reward as a function of images in [0, 1] and their prompts."""
    book = PromptBook.from_config(config)
    eye = load_open_clip(config.reward.clip, "reward")
    clip = ZeroShot(*eye, book.phrases, device_of(config.model))
    anchors = anchor_classes(book, lambda: clip.classes[book.concept_domain])
    weights = reward_weights(book, config.reward, anchors)
    numbers = {prompt.text: number for number, prompt in enumerate(book.prompts)}
    others = image_rewards.find(config, {})

    @torch.no_grad()
    def rewards(images: Images, asked: Sequence[str]) -> Float[Tensor, " batch"]:
        images = images.float()
        seen = image_rewards.evaluate(others, images)
        found = outcomes(clip(images), config.reward.bound, seen)
        return (found * weights[[numbers[text] for text in asked]]).sum(dim=1)

    return rewards
