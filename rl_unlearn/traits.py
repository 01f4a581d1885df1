"""A trait: what a function sees on an image and no word names. It is told by three functions, of
which one rewards, one chooses the checkpoint and one judges.

None of them is ever differentiated: it may be a rule, a program, a person. What it answers is one
more outcome that the critic learns to expect.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn import image_rewards, reward_names, trait_source
from rl_unlearn.canvas import TraitRole
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.image_rewards import ImageReward


def function_of(config: Config, role: TraitRole, given: Mapping[str, ImageReward]) -> ImageReward:
    """Returns the function of that role: how surely an image has the trait, from 0 to 1. One of the
    canvas's networks says yes or no where it rewards.

    Raises ConfigError for a name that nobody registered or that plays two roles.
    """
    trait_source.check(config, role, given)
    key, name = trait_source.named(config, role)
    if name in given:
        return given[name]
    if reward_names.canvas_trait(name) is not None:
        probability = image_rewards.canvas_trait(name, role, config)
        return image_rewards.yes_or_no(probability) if role == "reward" else probability
    if reward_names.classifier(name) is None:
        raise ConfigError(f"{key} {name!r} is no function that was given")
    log_probability = image_rewards.classifier(key, name, config)
    return lambda images: log_probability(images).exp()


def sight(
    function: ImageReward, name: str, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Returns how surely each image has the trait, on the CPU.

    Raises TrainingError for an answer that is not one number from 0 to 1 for each image.
    """
    seen = image_rewards.evaluate({name: function}, images).squeeze(1)
    if not ((seen >= 0) & (seen <= 1)).all():
        raise TrainingError(
            f"the image function {name!r} must say how surely each image has the trait, from 0 to "
            f"1; it gave {seen.min():g} to {seen.max():g}"
        )
    return seen


def log_odds(seen: Float[Tensor, " batch"], bound: float) -> Float[Tensor, " batch"]:
    """``log p - log(1 - p)`` in nats, clipped to +-bound: a plain yes is +bound, a no -bound."""
    return torch.logit(seen.double()).clamp(-bound, bound).float()
