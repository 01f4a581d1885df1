"""Stage `latents`: every training render through the encoder, once; and noisy latents drawn from
them.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.canvas.autoencoder import encode
from experiments.canvas.data import renders

SHARDS = ((500, 1), (440, 3))
"""Renders per concept and seed of each shard."""


def build(work: Path, shards: tuple[tuple[int, int], ...] = SHARDS) -> None:
    """Writes one file a shard: posterior mean and deviation (N, 4, 8, 8), unscaled, and concepts
    (N,).
    """
    model = AutoencoderKL.from_pretrained(work / "vae-joint")
    for per_concept, seed in shards:
        path = work / f"latents-{per_concept}-{seed}.safetensors"
        if not path.exists():
            pool = renders(work, "train", per_concept, seed)
            parts = [
                encode(model, pool.take(index)) for index in torch.arange(len(pool)).split(512)
            ]
            mean, deviation = (torch.cat(tensors).half() for tensors in zip(*parts, strict=True))
            partial = path.with_suffix(".partial")
            save_file({"mean": mean, "deviation": deviation, "concepts": pool.concepts}, partial)
            partial.rename(path)


def load(work: Path) -> tuple[Tensor, Tensor, Tensor]:
    """All shards that exist, scaled to unit deviation: mean, deviation (N, 4, 8, 8) float16,
    concepts (N,).
    """
    scale = AutoencoderKL.load_config(work / "vae-joint")["scaling_factor"]
    shards = [load_file(path) for path in sorted(work.glob("latents-*.safetensors"))]
    mean, deviation, concepts = (
        torch.cat([s[k] for s in shards]) for k in ("mean", "deviation", "concepts")
    )
    return mean * scale, deviation * scale, concepts


class Latents:
    """Noisy training latents, drawn from the shards of the work folder."""

    def __init__(self, work: Path, scheduler: DDIMScheduler, generator: torch.Generator) -> None:
        self.mean, self.deviation, self.concepts = load(work)
        self.signal = scheduler.alphas_cumprod
        self.generator = generator

    def clean(self, count: int) -> tuple[Tensor, Tensor]:
        """Latents (B, 4, 8, 8) of unit deviation, and their concepts (B,)."""
        index = torch.randint(len(self.concepts), (count,), generator=self.generator)
        eps = torch.randn(count, *self.mean.shape[1:], generator=self.generator)
        return self.mean[index].float() + self.deviation[index].float() * eps, self.concepts[index]

    def noisy(self, clean: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and v of clean latents at steps (B,)."""
        alpha = self.signal[steps].sqrt()[:, None, None, None]
        sigma = (1 - self.signal[steps]).sqrt()[:, None, None, None]
        noise = torch.randn(clean.shape, generator=self.generator)
        return alpha * clean + sigma * noise, alpha * noise - sigma * clean
