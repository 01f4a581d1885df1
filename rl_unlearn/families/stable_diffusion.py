"""Stable Diffusion 1.x and 2.x: a UNet that reads CLIP's words by cross-attention."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn.config import Sampler
from rl_unlearn.families import variance_preserving
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps

UNET_LAYERS = {
    name: pattern + r"\.(to_q|to_k|to_v|to_out\.0)$"
    for name, pattern in (("cross", r".*attn2"), ("self", r".*attn1"), ("attention", r".*attn[12]"))
}
_FEW = 16
"""Latents a side at which attention over tokens is a few plain matrix products."""


class StableDiffusion(Family):
    """The UNet is told the words alone."""

    trained: ClassVar[str] = "unet"
    process: ClassVar[ModuleType] = variance_preserving
    layers: ClassVar[Mapping[str, str]] = UNET_LAYERS

    def __init__(self, pipeline: Any, sampler: Sampler, latent_shape: tuple[int, int, int]):
        super().__init__(pipeline, sampler, latent_shape)
        self.network.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        self._row = 1
        if pipeline.device.type == "cpu" and max(latent_shape[1:]) <= _FEW:
            # At a few dozen tokens plain matrix products beat the fused kernel: 1.2 times as many
            # passes a second.
            self.network.set_attn_processor(AttnProcessor())
            self._row = 16

    def encode(self, texts: list[str]) -> Condition:
        """CLIP's last hidden states."""
        words, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = words(
            texts,
            padding="max_length",
            truncation=True,
            max_length=words.model_max_length,
            return_tensors="pt",
        ).input_ids
        return Condition({"text": encoder(tokens.to(encoder.device))[0]})

    def unconditional(self) -> Condition:
        """Returns the empty prompt."""
        return self.encode([""])

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Noise, x0 or velocity, as the model was made."""
        latents = latents.contiguous(memory_format=torch.channels_last)
        words, mask = self._full_rows(condition.text)
        output: Tensor = self.network(
            latents, timesteps, encoder_hidden_states=words, encoder_attention_mask=mask
        ).sample
        return output

    def _full_rows(
        self, words: Float[Tensor, "batch tokens features"]
    ) -> tuple[Float[Tensor, "batch padded features"], Bool[Tensor, "batch padded"] | None]:
        """Fills the tokens up with masked ones: a softmax over rows that end within a register is
        ten times slower.
        """
        missing = -words.shape[1] % self._row
        if not missing:
            return words, None
        mask = torch.arange(words.shape[1] + missing, device=words.device) < words.shape[1]
        return torch.nn.functional.pad(words, (0, 0, 0, missing)), mask.expand(len(words), -1)
