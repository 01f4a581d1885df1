"""Judges: small classifiers that say which object, and which style, an image shows.

They measure only. No training of the pipeline or of the CLIP models uses them. The main ones are
convolutional; a panel of three more pairs, of other seeds and kinds, tells whether the main ones
were fooled.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_unlearn.canvas import (
    OBJECTS,
    STYLES,
    TRAITS,
    Head,
    Member,
    TraitRole,
    judge_path,
    traits_path,
)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection; shape (B, C, H, W) is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Judge(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] -> logits (B, classes)."""

    def __init__(
        self, classes: int, widths: tuple[int, ...] = (32, 64, 96), outlines: bool = False
    ) -> None:
        """Lets it see nothing but :func:`outlines` of the images, with ``outlines``."""
        super().__init__()
        self.outlines = outlines
        self.stages = nn.ModuleList()
        before = 3
        for width in widths:  # each stage halves height and width
            down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            self.stages.append(
                nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU(), Residual(width))
            )
            before = width
        self.head = nn.Linear(before * 16, classes)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each stage: sides 16, 8 and 4."""
        maps, x = [], (outlines(images) if self.outlines else images) * 4 - 2
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images)[-1])

    def logits(self, last: Tensor) -> Tensor:
        """Returns the logits of the last feature map, (B, C, 4, 4)."""
        logits: Tensor = self.head(last.flatten(1))
        return logits


class PatchJudge(nn.Module):
    """A transformer on patches of 4x4 pixels: images (B, 3, 32, 32) in [0, 1] -> logits (B,
    classes).
    """

    def __init__(self, classes: int, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the last feature map, of side 8."""
        tokens = self.patches(images * 4 - 2).flatten(2).transpose(1, 2)
        return [self.blocks(tokens + self.positions).transpose(1, 2).unflatten(2, (8, 8))]

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images)[-1])

    def logits(self, last: Tensor) -> Tensor:
        """Returns the logits of the last feature map, (B, C, 8, 8)."""
        logits: Tensor = self.head(last.mean((2, 3)))
        return logits


def outlines(images: Tensor) -> Tensor:
    """Strength of the edges of the brightness in [0, 1], three times: colour, fill and background
    are gone.
    """
    grey = images.mean(1, keepdim=True)
    slope = (
        torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device)
        / 4
    )
    both = torch.stack([slope, slope.T])[:, None].to(images.dtype)
    edges = nn.functional.conv2d(nn.functional.pad(grey, [1] * 4, mode="replicate"), both)
    strength = edges.square().sum(1, keepdim=True).sqrt()
    # The strongest edge of an image counts 1, so that pale drawings have outlines, too.
    return (strength / strength.amax((2, 3), keepdim=True).clamp(min=0.05)).expand(-1, 3, -1, -1)


def make_judge(classes: int, config: dict[str, Any]) -> "Judge | PatchJudge":
    """Returns an untrained judge of the kind that its `config.json` describes."""
    if config.get("kind") == "patches":
        return PatchJudge(classes, config["width"], config["depth"])
    return Judge(classes, tuple(config["widths"]), config.get("outlines", False))


def load_judge(head: Head, member: Member = "main") -> "Judge | PatchJudge":
    """Returns the shipped judge in float32 and evaluation mode; logits follow the order of OBJECTS
    or STYLES.
    """
    return _load(judge_path(head, member), {"object": OBJECTS, "style": STYLES}[head])


def load_traits(role: TraitRole) -> "Judge | PatchJudge":
    """Returns the shipped network of that role that sees traits; a logit for each of TRAITS,
    independent of the others: a sigmoid makes it a probability.
    """
    return _load(traits_path(role), TRAITS)


def _load(folder: Path, classes: tuple[str, ...]) -> "Judge | PatchJudge":
    config = json.loads((folder / "config.json").read_text())
    if tuple(config["classes"]) != classes:
        raise ValueError(f"the judge in {folder} knows other classes than the canvas")
    judge = make_judge(len(classes), config)
    judge.load_state_dict(
        {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    )
    return judge.eval().requires_grad_(False)
