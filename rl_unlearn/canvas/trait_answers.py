"""Yes or no, whether images of the canvas have a trait: its networks, asked.

A yes or no is won by an image between both, and by one that another network sees otherwise: a fish
with a head at either end does not face right. So the network that rewards is asked of each image
changed, too, and finds it without only if every answer fits.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rl_unlearn.canvas import TRAITS, TraitRole
from rl_unlearn.canvas.judges import load_traits

Answer = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, " batch"]]


def answers_of(trait: str, role: TraitRole, device: torch.device) -> Answer:
    """Returns what answers by the network of that role: 1 for each image that has the trait, else
    0.
    """
    network = load_traits(role).to(device)
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
