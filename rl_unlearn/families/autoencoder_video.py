"""Latents to images and back, with an autoencoder of videos: an image is a video of one frame."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families.autoencoder import Autoencoder


class VideoAutoencoder(Autoencoder):
    """An AutoencoderKLQwenImage behind latents of about unit variance."""

    def __init__(self, vae: Any):
        self.vae = vae
        config = vae.config
        self._mean = torch.tensor(config.latents_mean).view(-1, 1, 1)
        self._std = torch.tensor(config.latents_std).view(-1, 1, 1)

    @property
    def scale(self) -> int:
        """Pixels of an image for one of its latents, a side."""
        factor: int = 2 ** len(self.vae.config.temperal_downsample)
        return factor

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images, in [-1, 1], fp32."""
        latents = latents.float() * self._std.to(latents.device) + self._mean.to(latents.device)
        images: Tensor = self.vae.decode(latents[:, :, None]).sample[:, :, 0]
        return images

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the likeliest latents of images in [-1, 1], fp32."""
        latents = self.vae.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
        scaled: Tensor = (latents - self._mean.to(latents.device)) / self._std.to(latents.device)
        return scaled
