"""Judges: two small convolutional classifiers that say which object, and which style, an image shows.

They measure only. No training of the pipeline or of the CLIP models uses them.
"""

import json

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_unlearn.canvas import OBJECTS, STYLES, Head, judge_path


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

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for width in widths:  # each stage halves height and width
            down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            self.stages.append(nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU(), Residual(width)))
            before = width
        self.head = nn.Linear(before * 16, classes)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each stage: sides 16, 8 and 4."""
        maps, x = [], images * 4 - 2
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)[-1].flatten(1))


def load_judge(head: Head) -> Judge:
    """The shipped judge in float32 and evaluation mode; logits follow the order of OBJECTS or STYLES."""
    folder = judge_path(head)
    config = json.loads((folder / "config.json").read_text())
    classes = {"object": OBJECTS, "style": STYLES}[head]
    if tuple(config["classes"]) != classes:
        raise ValueError(f"the judge in {folder} knows other classes than the canvas")
    judge = Judge(len(classes), tuple(config["widths"]))
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return judge.eval().requires_grad_(False)
