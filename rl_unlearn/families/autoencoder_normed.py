"""Latents to images and back, with an autoencoder that knows mean and variance of its latents."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from rl_unlearn.families.autoencoder import Autoencoder

_PATCH = 2


class NormedAutoencoder(Autoencoder):
    """An AutoencoderKLFlux2 behind latents of about unit variance.

    Mean and variance of each latent of a patch of 2 by 2 are among its weights.
    """

    def __init__(self, vae: Any):
        self.vae = vae

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images, about in [-1, 1], fp32."""
        mean, std = self._statistics()
        patches = pixel_unshuffle(latents.float(), _PATCH) * std + mean
        latents = pixel_shuffle(patches, _PATCH)
        images: Tensor = self.vae.decode(
            latents.contiguous(memory_format=torch.channels_last)
        ).sample
        return images

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the likeliest latents of images in [-1, 1], fp32."""
        mean, std = self._statistics()
        patches = pixel_unshuffle(self.vae.encode(images).latent_dist.mode(), _PATCH)
        return pixel_shuffle((patches - mean) / std, _PATCH)

    def _statistics(self) -> tuple[Float[Tensor, "packed 1 1"], Float[Tensor, "packed 1 1"]]:
        norm = self.vae.bn
        variance = norm.running_var + self.vae.config.batch_norm_eps
        return norm.running_mean.view(-1, 1, 1), variance.sqrt().view(-1, 1, 1)
