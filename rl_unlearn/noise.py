"""Noise by name: every random tensor of a trajectory derives from who asked for it, never from
arrival order.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def seed_of(*names: int | str) -> int:
    """Returns a 63-bit seed from a tuple of names (BLAKE2b), independent of process, platform and
    call order.
    """
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*names: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(*names))


def shuffled(count: int, *names: int | str) -> list[int]:
    """Returns the numbers below ``count`` in an order by name."""
    return torch.randperm(count, generator=generator(*names)).tolist()


def trajectory_noise(
    seeds: list[int], steps: int, shape: tuple[int, ...]
) -> Float[Tensor, "batch levels *latent"]:
    """Standard normal noise of whole trajectories, initial latents and one draw a step; each row
    has its own seed.
    """
    rows = [
        torch.randn(steps + 1, *shape, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(rows)
