"""Qwen-Image: a transformer in which image and the words of a language model attend as one."""

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families import flow_matching
from rl_unlearn.families.autoencoder import Autoencoder
from rl_unlearn.families.autoencoder_video import VideoAutoencoder
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.flux import pack, unpack
from rl_unlearn.families.sd3 import JOINT_LAYERS
from rl_unlearn.layouts.qwen_image import TEXT_TOKENS

_NOTHING = " "
"""What its makers ask for in the other branch of guidance."""


class QwenImage(Family):
    """The transformer is told words, and which of them are any."""

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching
    encoded_at_once: ClassVar[int] = 8  # the language model is large
    layers: ClassVar[Mapping[str, str]] = JOINT_LAYERS
    decoder: ClassVar[type[Autoencoder]] = VideoAutoencoder

    def encode(self, texts: list[str]) -> Condition:
        """Returns the language model's last states behind the template's beginning, which says what
        to do.

        The pipeline fills prompts up to the longest of a call. Here all are filled up to the same
        number, so that nothing depends on who else is there; the mask hides what was filled in.
        """
        pipeline = self.pipeline
        begin, template = pipeline.prompt_template_encode_start_idx, pipeline.prompt_template_encode
        tokens = pipeline.tokenizer(
            [template.format(text) for text in texts], padding="max_length", padding_side="right",
            truncation=True,
            max_length=begin + TEXT_TOKENS, return_tensors="pt",
        ).to(self.encodes_on)  # fmt: skip
        model = pipeline.text_encoder.model  # without the head, which predicts words
        filled = tokens.attention_mask
        states = model(input_ids=tokens.input_ids, attention_mask=filled).last_hidden_state
        mask = filled[:, begin:]
        text = states[:, begin:].masked_fill(mask[:, :, None] == 0, 0.0)
        return Condition({"text": text, "mask": mask.to(text.dtype)})

    def unconditional(self) -> Condition:
        """Returns a prompt of one space."""
        return self.encode([_NOTHING])

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the velocity, noise less x0."""
        batch, channels, height, width = latents.shape
        output = self.network(
            hidden_states=pack(latents),
            timestep=timesteps.to(latents.dtype) / 1000,  # the network multiplies by it again
            encoder_hidden_states=condition.text,
            encoder_hidden_states_mask=condition.mask > 0,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
        ).sample
        return unpack(output, channels, height, width)

    def guide(
        self,
        unconditional: Float[Tensor, "batch channels height width"],
        conditional: Float[Tensor, "batch channels height width"],
        scale: float,
    ) -> Float[Tensor, "batch channels height width"]:
        """Goes as far along as guidance does, but leaves each token as long as the conditional
        answer's.
        """
        guided = pack(super().guide(unconditional, conditional, scale))
        length = pack(conditional).norm(dim=-1, keepdim=True)
        kept = guided * (length / guided.norm(dim=-1, keepdim=True))
        return unpack(kept, *conditional.shape[1:])
