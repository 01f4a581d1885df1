"""Pools of renders, made once per work folder and read by every stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_unlearn.canvas import OBJECTS, STYLES
from rl_unlearn.canvas.render import Split, render

CONCEPTS = len(OBJECTS) * len(STYLES)
"""Concept k is object k // 8 in style k % 8."""


@dataclass(frozen=True)
class Pool:
    """Images (N, 3, 32, 32) uint8 and the concept of each, (N,) int64."""

    images: Tensor
    concepts: Tensor

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def objects(self) -> Tensor:
        return self.concepts // len(STYLES)

    @property
    def styles(self) -> Tensor:
        return self.concepts % len(STYLES)

    def take(self, index: Tensor) -> Tensor:
        """Images at `index` as (B, 3, 32, 32) float in [0, 1]."""
        return self.images[index].float() / 255.0

    def save(self, path: Path) -> None:
        save_file({"images": self.images, "concepts": self.concepts}, path)

    @classmethod
    def load(cls, path: Path) -> "Pool":
        return cls(**load_file(path))


def to_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def renders(work: Path, split: Split, per_concept: int, seed: int) -> Pool:
    """`per_concept` renders of every concept, cached in the work folder."""
    path = work / f"renders-{split}-{per_concept}-{seed}.safetensors"
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        concepts = torch.arange(CONCEPTS)
        images = [
            to_bytes(render(concepts // len(STYLES), concepts % len(STYLES), generator, split))
            for _ in range(per_concept)
        ]
        Pool(torch.cat(images), concepts.repeat(per_concept)).save(path)
    return Pool.load(path)


def batches(pool: Pool, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches of indices into the pool, each (size,)."""
    while True:
        order = torch.randperm(len(pool), generator=generator)
        yield from order[: len(order) // size * size].view(-1, size)
