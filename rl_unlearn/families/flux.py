"""FLUX.1-dev: a transformer over patches of latents and T5's words, which is told the guidance
scale.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.config import Sampler
from rl_unlearn.families import flow_matching
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.sd3 import JOINT_LAYERS


class Flux(Family):
    """The transformer is told words, pooled words and the guidance scale."""

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching
    encoded_at_once: ClassVar[int] = 8  # T5 is large
    layers: ClassVar[Mapping[str, str]] = JOINT_LAYERS

    def __init__(self, pipeline: Any, sampler: Sampler, latent_shape: tuple[int, int, int]):
        super().__init__(pipeline, sampler, latent_shape)
        self._guidance = sampler.guidance

    def encode(self, texts: list[str]) -> Condition:
        """T5's words, and CLIP's pooled ones."""
        text, pooled, _ = self.pipeline.encode_prompt(texts, None, device=self.encodes_on)
        return Condition({"text": text, "pooled": pooled})

    def unconditional(self) -> None:
        """Returns None: there is one pass, which is told the scale."""

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the velocity, noise less x0."""
        batch, channels, height, width = latents.shape
        device, dtype = latents.device, latents.dtype
        output = self.network(
            hidden_states=pack(latents),
            # The network multiplies by it again, in its own type.
            timestep=timesteps.to(dtype) / 1000,
            guidance=torch.full((batch,), self._guidance, device=device, dtype=torch.float32),
            pooled_projections=condition.pooled,
            encoder_hidden_states=condition.text,
            txt_ids=torch.zeros(condition.text.shape[1], 3, device=device, dtype=dtype),
            img_ids=places(height // 2, width // 2, device).to(dtype),
        ).sample
        return unpack(output, channels, height, width)


def pack(
    latents: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch tokens packed"]:
    """Patches of 2 by 2 latents as tokens, row by row; within one, channels come first."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(
    tokens: Float[Tensor, "batch tokens packed"], channels: int, height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Inverse of :func:`pack`."""
    packed = tokens.transpose(1, 2).reshape(len(tokens), 4 * channels, height // 2, width // 2)
    return torch.nn.functional.pixel_shuffle(packed, 2)


def places(
    rows: int, columns: int, device: torch.device | None = None
) -> Float[Tensor, "tokens 3"]:
    """Row and column of each token, which the rotary embedding reads; the first number is 0 for
    images.
    """
    sides = (torch.arange(side, device=device) for side in (rows, columns))
    row, column = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=2).flatten(0, 1).float()
