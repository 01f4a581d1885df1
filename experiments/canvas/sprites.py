"""Stage `sprites`: fetch the eight emoji packages at pinned versions and rasterise 160 drawings.

The packages are the Iconify JSON sets on npm; their licences and authors are listed in NOTICE.
"""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import torch
from PIL import Image
from safetensors.torch import save_file

from rl_unlearn.canvas import OBJECTS, STYLES

_ICON_NAMES = (
    "classical-building", "bear", "bird", "butterfly", "cat-face", "dog-face", "tropical-fish",
    "fire", "hibiscus",
    "frog", "horse", "man", "octopus", "rabbit-face", "hamburger", "water-wave",
    "statue-of-liberty", "tokyo-tower",
    "evergreen-tree", "rocket",
)  # fmt: skip
ICONS = dict(zip(OBJECTS, _ICON_NAMES, strict=True))
"""Name of each object's icon, the same in all eight packages."""

_VERSIONS = (
    ("noto", "1.2.9"),
    ("noto-v1", "1.2.5"),
    ("twemoji", "1.2.5"),
    ("emojione", "1.2.3"),
    ("emojione-monotone", "1.2.1"),
    ("fluent-emoji", "1.2.7"),
    ("fluent-emoji-flat", "1.2.6"),
    ("fluent-emoji-high-contrast", "1.2.6"),
)
PACKAGES = dict(zip(STYLES, _VERSIONS, strict=True))
"""npm package (under @iconify-json/) and version of each style."""

RASTER, SHIPPED = 256, 64
"""Pixels a drawing is rasterised at, and box-averaged down to for shipping."""


def fetch(work: Path) -> Path:
    """Installs the pinned packages under `work`, unless they are there; returns the folder that
    holds them.
    """
    folder = work / "node_modules" / "@iconify-json"
    if not all((folder / package / "icons.json").exists() for package, _ in PACKAGES.values()):
        wanted = [f"@iconify-json/{package}@{version}" for package, version in PACKAGES.values()]
        subprocess.run(
            ["npm", "install", "--prefix", str(work), "--ignore-scripts", *wanted], check=True
        )
    for package, version in PACKAGES.values():
        installed = json.loads((folder / package / "package.json").read_text())["version"]
        if installed != version:
            raise RuntimeError(f"{package} is {installed}, the recipe wants {version}")
    return folder


def rasterise(icons: dict[str, Any], name: str) -> np.ndarray:
    """One icon of an Iconify set, (4, 64, 64) uint8 with premultiplied alpha."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'color="black" '
        f'viewBox="{left} {top} {width} {height}" width="{RASTER}" '
        f'height="{RASTER}">{icon["body"]}</svg>'
    )
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=RASTER, height=RASTER, skip_system_fonts=True)
    )
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32) / 255.0
    rgba[..., :3] *= rgba[..., 3:]
    step = RASTER // SHIPPED
    small: np.ndarray = rgba.reshape(SHIPPED, step, SHIPPED, step, 4).mean((1, 3))
    pixels: np.ndarray = np.round(small * 255).astype(np.uint8)
    return pixels.transpose(2, 0, 1)


def build(work: Path, weights: Path) -> None:
    """Writes `sprites.safetensors`: (20, 8, 4, 64, 64) uint8."""
    folder = fetch(work)
    sprites = np.zeros((len(OBJECTS), len(STYLES), 4, SHIPPED, SHIPPED), np.uint8)
    for s, style in enumerate(STYLES):
        icons = json.loads((folder / PACKAGES[style][0] / "icons.json").read_text())
        for o, name in enumerate(OBJECTS):
            sprites[o, s] = rasterise(icons, ICONS[name])
    weights.mkdir(parents=True, exist_ok=True)
    about = {"sources": json.dumps(PACKAGES), "icons": json.dumps(ICONS), "alpha": "premultiplied"}
    save_file({"sprites": torch.from_numpy(sprites)}, weights / "sprites.safetensors", about)
