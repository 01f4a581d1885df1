"""Stage `latents`: every training render through the encoder, once."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.canvas.autoencoder import encode
from experiments.canvas.data import renders

SHARDS = ((500, 1), (440, 3))
"""Renders per concept and seed of each shard."""


def build(work: Path, shards: tuple[tuple[int, int], ...] = SHARDS) -> None:
    """Write one file a shard: posterior mean and deviation (N, 4, 8, 8), unscaled, and concepts
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
