"""Latents to images and back, with an autoencoder that knows no distribution of latents."""

from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families.autoencoder import Autoencoder


class DeepAutoencoder(Autoencoder):
    """An AutoencoderDC behind latents of about unit variance."""

    @property
    def scale(self) -> int:
        """Pixels of an image for one of its latents, a side."""
        return int(self.vae.spatial_compression_ratio)

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns the latents of images in [-1, 1], fp32."""
        latents: Tensor = self.vae.encode(images).latent
        scaled: Tensor = latents * self._scale.to(latents.device)
        return scaled
