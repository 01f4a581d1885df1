"""Stable Diffusion 3 and 3.5: a transformer in which image and words, of up to three encoders,
attend as one.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families import flow_matching
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps

JOINT_LAYERS = {
    "cross": r".*attn\.(add_[qkv]_proj|to_add_out)$",
    "self": r".*attn2?\.(to_q|to_k|to_v|to_out\.0)$",
    "attention": r".*attn2?\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)$",
}
"""Of joint attention, `cross` is the words' side and `self` the image's."""


class StableDiffusion3(Family):
    """The transformer is told words and pooled words."""

    trained: ClassVar[str] = "transformer"
    process: ClassVar[ModuleType] = flow_matching
    encoded_at_once: ClassVar[int] = 16  # the third encoder is large
    layers: ClassVar[Mapping[str, str]] = JOINT_LAYERS

    def encode(self, texts: list[str]) -> Condition:
        """CLIP's words, padded, before T5's; and the pooled words of both CLIPs."""
        text, _, pooled, _ = self.pipeline.encode_prompt(
            texts, None, None, device=self.encodes_on, do_classifier_free_guidance=False
        )
        return Condition({"text": text, "pooled": pooled})

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
        output: Tensor = self.network(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=condition.text,
            pooled_projections=condition.pooled,
        ).sample
        return output
