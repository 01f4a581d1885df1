"""Augmentations of image batches (B, 3, 32, 32) in [0, 1]; every draw comes from the generator
given.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Mask (B, 1, 1, 1): which images an augmentation applies to."""
    return (torch.rand(count, generator=generator) < share).float()[:, None, None, None]


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) uniform numbers."""
    return (low + (high - low) * torch.rand(count, generator=generator))[:, None, None, None]


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Shifts the batch by up to `pixels` in each direction, edges repeated."""
    dx, dy = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    size = images.shape[-1]
    return F.pad(images, [pixels] * 4, mode="replicate")[:, :, dy : dy + size, dx : dx + size]


def blur(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mixes some images with their 3x3 or 5x5 binomial blur."""
    strength = uniform(len(images), 0.3, 1.0, generator) * chosen(len(images), share, generator)
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(images, [1] * 4, mode="replicate"), kernel, groups=3)
    if torch.rand((), generator=generator) < 0.5:
        soft = F.conv2d(F.pad(soft, [1] * 4, mode="replicate"), kernel, groups=3)
    return torch.lerp(images, soft, strength)


def noise(images: Tensor, share: float, scale: float, generator: torch.Generator) -> Tensor:
    """Adds white noise, half of the time coarse (4x4 pixel cells), of standard deviation up to
    `scale`.
    """
    count, channels, size, _ = images.shape
    amount = uniform(count, 0.0, scale, generator) * chosen(count, share, generator)
    if torch.rand((), generator=generator) < 0.5:
        field = torch.randn(images.shape, generator=generator)
    else:
        coarse = torch.randn(count, channels, size // 4, size // 4, generator=generator)
        field = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    return images + amount * field


def colour(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Jitters brightness, contrast and the balance of channels."""
    count = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = uniform(count, 1 - strength, 1 + strength, generator)
    tint = strength * 0.5 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
    return (images - mean) * contrast + mean + tint


def cutout(images: Tensor, share: float, side: int, generator: torch.Generator) -> Tensor:
    """Covers a square of up to `side` pixels with a flat colour."""
    count, _, size, _ = images.shape
    centre = torch.rand(count, 2, generator=generator) * size
    half = uniform(count, 2.0, side, generator)[:, 0] / 2
    axis = torch.arange(size) + 0.5
    inside = ((axis - centre[:, :1]).abs()[:, None, :] < half) & (
        (axis - centre[:, 1:]).abs()[:, :, None] < half
    )
    mask = inside[:, None].float() * chosen(count, share, generator)
    return images * (1 - mask) + mask * torch.rand(count, 3, 1, 1, generator=generator)


def elastic(images: Tensor, share: float, amount: float, generator: torch.Generator) -> Tensor:
    """Warps by a smooth random field of up to about `amount` pixels."""
    count, _, size, _ = images.shape
    field = torch.randn(count, 2, 4, 4, generator=generator) * (2 * amount / size)
    field = F.interpolate(field * chosen(count, share, generator), size, mode="bicubic").permute(
        0, 2, 3, 1
    )
    axis = (2 * torch.arange(size) + 1) / size - 1
    grid = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)], -1)
    return F.grid_sample(images, grid + field, padding_mode="border", align_corners=False)


def mix(
    images: Tensor, targets: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches some images with parts of their neighbours in the batch.

    Targets (B, K) mix by the area taken.
    """
    count, _, size, _ = images.shape
    cells = torch.randn(count, 1, 4, 4, generator=generator)
    field = F.interpolate(cells, size, mode="bilinear")
    mask = (field > uniform(count, -0.3, 0.8, generator)).float() * chosen(count, share, generator)
    kept = 1 - mask.mean((2, 3))
    return (
        images * (1 - mask) + images.roll(1, 0) * mask,
        targets * kept + targets.roll(1, 0) * (1 - kept),
    )


def scramble(
    images: Tensor, targets: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cuts the first `count` images into 4x4-pixel patches, shuffles those, and calls them nothing
    (uniform target).
    """
    side = images.shape[-1] // 4
    patches = (
        images[:count].unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)
    )  # (n, 3, side*side, 4, 4)
    patches = patches[:, :, torch.randperm(side * side, generator=generator)]
    shuffled = patches.unflatten(2, (side, side)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
    nothing = torch.full_like(targets[:count], 1 / targets.shape[1])
    return torch.cat([shuffled, images[count:]]), torch.cat([nothing, targets[count:]])
