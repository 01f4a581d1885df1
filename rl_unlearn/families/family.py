"""What policy, learner, critic and attacks ask of a model: all they know of a family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.config import Sampler
from rl_unlearn.families.autoencoder import Autoencoder
from rl_unlearn.families.condition import Condition
from rl_unlearn.kernel import Kernel

Timesteps = Float[Tensor, " batch"] | Int[Tensor, " batch"]
"""What the network is told of each row's noise, in [0, 1000]."""


class Family(ABC):
    """A pipeline's parts behind one interface.

    Latents are unpacked, of shape (channels, height, width).
    """

    trained: ClassVar[str]
    """The component that the adapter belongs to: `unet` or `transformer`."""
    kind: ClassVar[type | None] = None
    """Class of the pipeline where diffusers has none of the layout's name."""
    process: ClassVar[ModuleType]
    """How noise is mixed in: `variance_preserving` or `flow_matching`."""
    layers: ClassVar[Mapping[str, str]]
    """Regular expressions for the attention layers that ``lora.layers`` names."""
    encoded_at_once: ClassVar[int] = 256
    """Prompts, at most, in a call of :meth:`encode`; fewer where the text encoders are large."""
    decoder: ClassVar[type[Autoencoder]] = Autoencoder
    """What makes images of latents."""

    def __init__(self, pipeline: Any, sampler: Sampler, latent_shape: tuple[int, int, int]):
        """``pipeline``: diffusers' own, whose parts these are."""
        self.pipeline, self.latent_shape = pipeline, latent_shape
        self.kernel: Kernel = self.process.kernel(
            pipeline.scheduler, sampler.steps, sampler.eta, latent_shape
        )
        self.network = getattr(pipeline, self.trained)
        self.autoencoder = self.decoder(pipeline.vae)

    def text_encoders(self) -> dict[str, Any]:
        """Returns the pipeline's text encoders, by name."""
        parts = self.pipeline.components.items()
        return {
            name: part
            for name, part in parts
            if name.startswith("text_encoder") and part is not None
        }

    @property
    def encodes_on(self) -> torch.device:
        """Where the text encoders are."""
        device: torch.device = next(encoder.device for encoder in self.text_encoders().values())
        return device

    @abstractmethod
    def encode(self, texts: list[str]) -> Condition:
        """Returns what the frozen text encoders say of prompts."""

    @abstractmethod
    def unconditional(self) -> Condition | None:
        """Returns one row for classifier-free guidance; None: the network is told the scale and
        draws in one pass.
        """

    @abstractmethod
    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        timesteps: Timesteps,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the network's answer in one pass."""

    def guide(
        self,
        unconditional: Float[Tensor, "batch channels height width"],
        conditional: Float[Tensor, "batch channels height width"],
        scale: float,
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the answer that classifier-free guidance makes of two."""
        return unconditional + scale * (conditional - unconditional)
