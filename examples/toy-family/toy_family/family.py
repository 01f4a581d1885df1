"""Toy: Stable Diffusion that reads few prompts at once."""

from typing import ClassVar

from diffusers import StableDiffusionPipeline

from rl_unlearn.families.stable_diffusion import StableDiffusion


class ToyPipeline(StableDiffusionPipeline):
    """The class that `model_index.json` names; diffusers has none of this name."""


class Toy(StableDiffusion):
    """The UNet is told the words alone."""

    kind: ClassVar[type] = ToyPipeline
    encoded_at_once: ClassVar[int] = 8
