"""FLUX.2 [klein]: a transformer over patches of latents and the states of a language model."""

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families import flow_matching_by_steps
from rl_unlearn.families.autoencoder import Autoencoder
from rl_unlearn.families.autoencoder_normed import NormedAutoencoder
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.flux import pack, places, unpack
from rl_unlearn.families.sd3 import JOINT_LAYERS
from rl_unlearn.layouts.flux2 import LANGUAGE_LAYERS, TEXT_TOKENS

_SINGLE = "to_qkv_mlp_proj"
"""Queries, keys and values of words and image alike, in one layer with the block's first dense
one."""


class Flux2(Family):
    """The transformer is told words alone, always of the same number of tokens."""

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching_by_steps
    encoded_at_once: ClassVar[int] = 4  # the language model is large and answers with words, too
    layers: ClassVar[Mapping[str, str]] = {
        "cross": JOINT_LAYERS["cross"],
        "self": rf"({JOINT_LAYERS['self']})|(.*attn\.{_SINGLE}$)",
        "attention": rf"({JOINT_LAYERS['attention']})|(.*attn\.{_SINGLE}$)",
    }
    decoder: ClassVar[type[Autoencoder]] = NormedAutoencoder

    def encode(self, texts: list[str]) -> Condition:
        """States of three layers of the language model, also of the tokens that fill a prompt
        up."""
        text, _ = self.pipeline.encode_prompt(
            texts,
            device=self.encodes_on,
            max_sequence_length=TEXT_TOKENS,
            text_encoder_out_layers=LANGUAGE_LAYERS,
        )
        return Condition({"text": text})

    def unconditional(self) -> Condition:
        """Returns the empty prompt."""
        return self.encode([""])

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the velocity, noise less x0."""
        (_, channels, height, width), device = latents.shape, latents.device
        word = torch.arange(condition.text.shape[1], device=device)[:, None]
        output = self.network(
            hidden_states=pack(latents),
            # The network multiplies by it again, in its own type.
            timestep=timesteps.to(latents.dtype) / 1000,
            encoder_hidden_states=condition.text,
            txt_ids=torch.nn.functional.pad(word, (3, 0)),
            img_ids=torch.nn.functional.pad(places(height // 2, width // 2, device), (0, 1)),
        ).sample
        return unpack(output, channels, height, width)
