"""Latents to images and back, with the scale that a diffusers AutoencoderKL names."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Autoencoder:
    """An AutoencoderKL behind latents of about unit variance."""

    def __init__(self, vae: Any):
        self.vae = vae
        config = vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self._scale = config.scaling_factor / torch.tensor(std if std and mean else 1.0).view(
            -1, 1, 1
        )
        shift = config.get("shift_factor") or 0.0
        self._shift = torch.tensor(mean if std and mean else shift).view(-1, 1, 1)

    @property
    def scale(self) -> int:
        """Pixels of an image for one of its latents, a side."""
        factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return factor

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images, about in [-1, 1], fp32."""
        latents = latents.float() / self._scale.to(latents.device) + self._shift.to(latents.device)
        images: Tensor = self.vae.decode(
            latents.contiguous(memory_format=torch.channels_last)
        ).sample
        return images

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the likeliest latents of images in [-1, 1], fp32."""
        latents = self.vae.encode(images).latent_dist.mode()
        scaled: Tensor = (latents - self._shift.to(latents.device)) * self._scale.to(latents.device)
        return scaled
