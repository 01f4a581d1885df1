"""A trait: what a function sees on an image and no word names. It is told by three functions, of
which one rewards, one chooses the checkpoint and one judges.

None of them is ever differentiated: it may be a rule, a program, a person. What it answers is one
more outcome that the critic learns to expect.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rl_unlearn import image_rewards, plugins, reward_names, trait_source
from rl_unlearn.canvas import TRAITS, TraitRole
from rl_unlearn.canvas.judges import load_traits
from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.image_rewards import ImageReward


def function_of(config: Config, role: TraitRole, given: Mapping[str, ImageReward]) -> ImageReward:
    """Returns the function of that role: how surely an image has the trait, from 0 to 1. The
    canvas's networks say yes or no; the one that rewards says no only to an image that is surely
    without, see :func:`_of_canvas`.

    Raises ConfigError for a name that nobody registered or that plays two roles.
    """
    trait_source.check(config, role, given)
    key, name = trait_source.named(config, role)
    if name in given:
        return given[name]
    if reward_names.canvas_trait(name) is not None:
        return _of_canvas(name, role, config)
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


def _of_canvas(name: str, role: TraitRole, config: Config) -> ImageReward:
    """Returns the yes or no of the canvas's network of that role.

    A yes or no is won by an image between both, and by one that another network sees otherwise: a
    fish with a head at either end does not face right. So the network that rewards is asked of each
    image changed, too, and finds it without only if every answer fits.
    """
    device = device_of(config.model)
    network = load_traits(role).to(device)
    trait = reward_names.canvas_trait(name) or ""
    row = TRAITS.index(trait)
    changes = _CHANGES.get(trait, ()) if role == "reward" else ()

    @torch.no_grad()
    def answer(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Returns 1 where the trait is seen, else 0."""
        images = images.to(device)
        shown: Tensor = network(images)[:, row] > 0
        for change, expected in changes:
            shown |= (network(change(images))[:, row] > 0) != expected
        return shown.float()

    return answer


def _turned(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Returns the images turned clockwise by five degrees, a third of the largest angle."""
    angle = math.radians(5)
    return _looked_at(images, math.cos(angle), math.sin(angle))


def _nearer(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Returns the images five percent larger, a sixth of all sizes."""
    return _looked_at(images, 1 / 1.05, 0.0)


def _looked_at(
    images: Float[Tensor, "batch 3 height width"], along: float, across: float
) -> Float[Tensor, "batch 3 height width"]:
    theta = torch.tensor([[along, across, 0.0], [-across, along, 0.0]], device=images.device)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _mirror_image(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    return images.flip(-1)


_CHANGES: Mapping[str, tuple[tuple[Callable[[Tensor], Tensor], bool], ...]] = {
    "mirrored": ((_mirror_image, True),),
    "large": ((_nearer, False),),
    "tilted": ((_mirror_image, True), (_turned, False)),
}
"""Changes of an image, by trait, and whether one that is surely without the trait has it then."""
