"""A trait: what a function sees on an image and no word names. It is told by three functions, of
which one rewards, one chooses the checkpoint and one judges.

None of them is ever differentiated: it may be a rule, a program, a person. What it answers is one
more outcome that the critic learns to expect.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn import image_rewards, plugins, reward_names, trait_source
from rl_unlearn.canvas import TraitRole
from rl_unlearn.canvas.trait_answers import answers_of
from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.image_rewards import ImageReward


def function_of(config: Config, role: TraitRole, given: Mapping[str, ImageReward]) -> ImageReward:
    """Returns the function of that role: how surely an image has the trait, from 0 to 1. The
    canvas's networks say yes or no; the one that rewards says no only to an image that is surely
    without, see :func:`rl_unlearn.canvas.trait_answers.answers_of`.

    Raises ConfigError for a name that nobody registered or that plays two roles.
    """
    trait_source.check(config, role, given)
    key, name = trait_source.named(config, role)
    if name in given:
        return given[name]
    trait = reward_names.canvas_trait(name)
    if trait is not None:
        return answers_of(trait, role, device_of(config.model))
    if reward_names.classifier(name) is None:
        own: ImageReward = plugins.load(plugins.REWARDS, name)
        return own
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
