"""Reference images: what an attacker holds of the concept, drawn by the untouched model with noise
of its own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.noise import seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook, spread


@dataclass(frozen=True)
class References:
    """Images as latents of the autoencoder, on the policy's device, and the prompt (index in the
    book) of each.
    """

    latents: Float[Tensor, "images channels height width"]
    prompts: list[int]

    def __len__(self) -> int:
        return len(self.prompts)

    def of(self, prompt: int) -> Float[Tensor, "own channels height width"]:
        """Returns the references of one prompt."""
        return self.latents[[i for i, p in enumerate(self.prompts) if p == prompt]]

    def spread(self, count: int) -> "References":
        """Returns at most ``count`` of them at even distances."""
        chosen = spread(list(range(len(self))), count)
        return References(self.latents[chosen], [self.prompts[i] for i in chosen])


def draw_references(
    policy: DiffusionPolicy, book: PromptBook, prompts: list[int], each: int, seed: int, batch: int
) -> References:
    """``each`` images of every prompt by the untouched model; their noise is never the
    evaluation's.

    They go through the autoencoder as photographs would, so that real ones could take their place.
    """
    plan = [(index, number) for index in prompts for number in range(each)]
    seeds = [seed_of(seed, "attack", "reference", index, number) for index, number in plan]
    with policy.adapter_enabled(False):
        images = policy.generate([book.prompts[index].text for index, _ in plan], seeds, batch)
    return References(to_latents(policy, images, batch), [index for index, _ in plan])


@torch.no_grad()
def to_latents(
    policy: DiffusionPolicy, images: Float[Tensor, "images 3 image_height image_width"], batch: int
) -> Float[Tensor, "images channels height width"]:
    """Images in [0, 1] as scaled latents, the mode of the autoencoder's posterior."""
    encode = policy.family.autoencoder.encode
    return torch.cat([encode(part.to(policy.device) * 2 - 1) for part in images.split(batch)])
