"""Sana: a transformer of linear attention over small latents, which reads a language model's
words."""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from diffusers import SanaPipeline
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families import flow_matching
from rl_unlearn.families.autoencoder import Autoencoder
from rl_unlearn.families.autoencoder_deep import DeepAutoencoder
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.stable_diffusion import UNET_LAYERS

_CALL = inspect.signature(SanaPipeline.__call__).parameters
INSTRUCTION: list[str] = _CALL["complex_human_instruction"].default
"""What the language model is asked to make of a prompt."""


class Sana(Family):
    """The transformer is told words, and which of the tokens are some."""

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching
    encoded_at_once: ClassVar[int] = 16  # the language model is large
    layers: ClassVar[Mapping[str, str]] = UNET_LAYERS
    decoder: ClassVar[type[Autoencoder]] = DeepAutoencoder

    def encode(self, texts: list[str]) -> Condition:
        """Returns the language model's last hidden states behind its instruction."""
        return self._encode(texts, INSTRUCTION)

    def unconditional(self) -> Condition:
        """Returns the empty prompt, without an instruction."""
        return self._encode([""], None)

    def _encode(self, texts: list[str], instruction: list[str] | None) -> Condition:
        text, words, _, _ = self.pipeline.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            device=self.encodes_on,
            complex_human_instruction=instruction,
        )
        return Condition({"text": text, "words": words.to(text.dtype)})

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the velocity, noise less x0."""
        output: Tensor = self.network(
            hidden_states=latents,
            encoder_hidden_states=condition.text,
            encoder_attention_mask=condition.words,
            timestep=timesteps * self.network.config.timestep_scale,
        ).sample
        return output
