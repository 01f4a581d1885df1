"""Stable Diffusion XL: a larger UNet that is also told pooled words and the size of the image."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.config import Sampler
from rl_unlearn.families import variance_preserving
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.stable_diffusion import UNET_LAYERS


class StableDiffusionXL(Family):
    """The UNet is told words, pooled words and sizes."""

    trained: ClassVar[str] = "unet"
    process: ClassVar[ModuleType] = variance_preserving
    layers: ClassVar[Mapping[str, str]] = UNET_LAYERS

    def __init__(self, pipeline: Any, sampler: Sampler, latent_shape: tuple[int, int, int]):
        super().__init__(pipeline, sampler, latent_shape)
        self.network.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)

    def encode(self, texts: list[str]) -> Condition:
        """Returns both encoders' last but one hidden states side by side, and the second one's
        pooled words.
        """
        text, _, pooled, _ = self.pipeline.encode_prompt(
            texts, device=self.encodes_on, do_classifier_free_guidance=False
        )
        return self._condition(text, pooled)

    def unconditional(self) -> Condition:
        """Zeros, or the empty prompt where the model was made so."""
        empty = self.encode([""])
        if self.pipeline.config.force_zeros_for_empty_prompt:
            return self._condition(torch.zeros_like(empty.text), torch.zeros_like(empty.pooled))
        return empty

    def _condition(
        self, text: Float[Tensor, "batch tokens features"], pooled: Float[Tensor, "batch pooled"]
    ) -> Condition:
        height, width = (n * self.pipeline.vae_scale_factor for n in self.latent_shape[1:])
        size = torch.tensor(
            [[height, width, 0, 0, height, width]], dtype=text.dtype
        )  # original, cut off, target
        return Condition(
            {"text": text, "pooled": pooled, "size": size.expand(len(text), -1).to(text.device)}
        )

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Noise or velocity, as the model was made."""
        output: Tensor = self.network(
            latents.contiguous(memory_format=torch.channels_last),
            timesteps,
            encoder_hidden_states=condition.text,
            added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": condition.size},
        ).sample
        return output
