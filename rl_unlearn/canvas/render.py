"""Renders: a sprite of one object in one style, placed at random on the background of that
style."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from rl_unlearn.canvas import IMAGE_SIZE, OBJECTS, STYLES, sprites_path

Split = Literal["train", "test"]

# Background of each style as ranges of hue, saturation and value, each in [0, 1].
_BACKGROUND = {
    "noto": ((0.10, 0.15), (0.15, 0.40), (0.93, 1.00)),
    "classic": ((0.28, 0.38), (0.15, 0.35), (0.85, 0.97)),
    "twemoji": ((0.53, 0.60), (0.20, 0.45), (0.88, 1.00)),
    "emojione": ((0.92, 0.98), (0.15, 0.35), (0.93, 1.00)),
    "monotone": ((0.00, 1.00), (0.00, 0.05), (0.86, 1.00)),
    "fluent": ((0.60, 0.70), (0.45, 0.70), (0.20, 0.36)),
    "flat": ((0.70, 0.78), (0.25, 0.45), (0.72, 0.88)),
    "contrast": ((0.12, 0.16), (0.75, 0.95), (0.90, 1.00)),
}

_CELLS = 8
"""Background tone and scale are each cut into this many cells; every fifth pair of cells is held
out for test."""

_MIN_SCALE, _MAX_SCALE = 0.72, 1.02
_MAX_ROTATION = 15.0 * torch.pi / 180.0


@dataclass(frozen=True)
class Factors:
    """How the drawings of a batch of renders were placed, which no caption names."""

    mirrored: Tensor
    """Whether it is the drawing's mirror image, (B,) bool."""
    scale: Tensor
    """Between _MIN_SCALE and _MAX_SCALE, (B,)."""
    angle: Tensor
    """Clockwise, in radians, (B,)."""

    def traits(self) -> Tensor:
        """Returns which of the canvas's TRAITS each render has, (B, 3) bool."""
        large = self.scale > (_MIN_SCALE + _MAX_SCALE) / 2
        return torch.stack([self.mirrored, large, self.angle > 0], 1)


@cache
def load_sprites(path: Path | None = None) -> Tensor:
    """Returns all sprites, (20, 8, 4, 64, 64) in [0, 1], colour premultiplied by alpha."""
    sprites: Tensor = load_file(path or sprites_path())["sprites"].float() / 255.0
    return sprites


@cache
def _cells(split: Split) -> Tensor:
    """Pairs (tone cell, scale cell) that a split may draw, (N, 2); the two splits are disjoint."""
    pairs = [
        (i, j)
        for i in range(_CELLS)
        for j in range(_CELLS)
        if ((i + 2 * j) % 5 == 0) == (split == "test")
    ]
    return torch.tensor(pairs)


def _indices(names: Sequence[str] | Tensor, table: tuple[str, ...]) -> Tensor:
    if isinstance(names, Tensor):
        return names.long()
    return torch.tensor([table.index(name) for name in names], dtype=torch.long)


def _hsv_to_rgb(hsv: Tensor) -> Tensor:
    """(B, 3) hue, saturation, value -> (B, 3) red, green, blue."""
    hue, saturation, value = hsv.unbind(1)
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6.0 * hue[:, None]) % 6.0
    chroma = torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)
    return value[:, None] * (1.0 - saturation[:, None] * chroma)


def _background(styles: Tensor, tone: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Soft gradient in the tone of each style, (B, 3, size, size)."""
    count = styles.shape[0]
    low, high = torch.tensor([_BACKGROUND[name] for name in STYLES])[styles].unbind(2)
    hue, saturation = torch.rand(2, count, generator=generator)
    colour = _hsv_to_rgb(low + (high - low) * torch.stack([hue, saturation, tone], 1))
    angle = torch.rand(count, generator=generator) * 2 * torch.pi
    slope = 0.05 * torch.rand(count, generator=generator)
    axis = torch.linspace(-1, 1, size)
    along = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
    return (colour[:, :, None, None] + slope[:, None, None, None] * along[:, None]).clamp(0, 1)


def render(
    objects: Sequence[str] | Tensor,
    styles: Sequence[str] | Tensor,
    generator: torch.Generator,
    split: Split = "train",
) -> Tensor:
    """Images (B, 3, 32, 32) in [0, 1] of `objects` in `styles`, given by name or by index (B,).

    Position, scale, rotation, flip and background are drawn from `generator`; equal generators give
    equal images. The two splits never draw the same combination of background tone and scale.
    """
    return render_with_factors(objects, styles, generator, split)[0]


def render_with_factors(
    objects: Sequence[str] | Tensor,
    styles: Sequence[str] | Tensor,
    generator: torch.Generator,
    split: Split = "train",
) -> tuple[Tensor, Factors]:
    """Returns the images of :func:`render`, and how their drawings were placed."""
    object_index, style_index = _indices(objects, OBJECTS), _indices(styles, STYLES)
    count = object_index.shape[0]
    cells = _cells(split)
    cell = cells[torch.randint(len(cells), (count,), generator=generator)]
    tone, size = ((cell + torch.rand(count, 2, generator=generator)) / _CELLS).unbind(1)

    scale = _MIN_SCALE + (_MAX_SCALE - _MIN_SCALE) * size
    angle = _MAX_ROTATION * (2 * torch.rand(count, generator=generator) - 1)
    flip = 1.0 - 2.0 * torch.randint(2, (count,), generator=generator)
    room = (1.0 - scale).clamp(min=0) + 0.04
    shift = room[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)

    # Output coordinates -> sprite coordinates: undo the shift, the rotation, the scale, then the
    # flip.
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack([torch.stack([flip * cos, flip * sin], 1), torch.stack([-sin, cos], 1)], 1)
    theta = torch.cat([matrix, -(matrix @ shift[:, :, None])], 2)
    fine = 2 * IMAGE_SIZE
    grid = F.affine_grid(theta, [count, 4, fine, fine], align_corners=False)
    placed = F.grid_sample(load_sprites()[object_index, style_index], grid, align_corners=False)
    background = _background(style_index, tone, generator, fine)
    images = F.avg_pool2d(placed[:, :3] + (1.0 - placed[:, 3:]) * background, 2).clamp(0.0, 1.0)
    return images, Factors(flip < 0, scale, angle)
