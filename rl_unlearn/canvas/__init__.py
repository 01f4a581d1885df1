"""The emoji canvas: a small real world of 20 objects in 8 drawing styles at 32x32, shipped with its
models.

It stands in for UnlearnCanvas where no model hub is reachable: a `StableDiffusionPipeline` that
draws the concepts, two `open_clip` models that score image against caption (one to train on, one to
select by) and two judges, one for the object and one for the style, that no training ever sees.

This module holds names and paths only, and imports nothing heavy.
"""

from pathlib import Path
from typing import Literal

OBJECTS: tuple[str, ...] = (
    "building", "bear", "bird", "butterfly", "cat", "dog", "fish", "flame", "flower", "frog",
    "horse", "man", "octopus", "rabbit", "hamburger", "wave", "statue", "tower", "tree", "rocket",
)  # fmt: skip
STYLES: tuple[str, ...] = (
    "noto",
    "classic",
    "twemoji",
    "emojione",
    "monotone",
    "fluent",
    "flat",
    "contrast",
)

ANCHORS: tuple[str, ...] = ("dog", "rabbit")
"""What stands in a forgotten object's place unless told otherwise: the first that is another
one."""

TRAITS: tuple[str, ...] = ("mirrored", "large", "tilted")
"""What renders differ in and no caption names: the drawing's mirror image, larger than the middle
of all sizes, turned clockwise."""
WITH_TRAITS: tuple[str, ...] = ("horse", "bird", "fish")
"""Objects whose traits the shipped networks see: in all styles they are drawn facing left, so that
a person sees which image is the mirrored one."""

IMAGE_SIZE = 32
"""Height and width of every image, in pixels."""

_WEIGHTS = Path(__file__).resolve().parent / "weights"


def caption(object: str | None = None, style: str | None = None) -> str:
    """Returns the sentence the models were trained on for a concept; the empty string is the null
    prompt.
    """
    if object is not None and object not in OBJECTS:
        raise ValueError(f"unknown object {object!r}; the canvas draws {', '.join(OBJECTS)}")
    if style is not None and style not in STYLES:
        raise ValueError(f"unknown style {style!r}; the canvas draws in {', '.join(STYLES)}")
    if object and style:
        return f"A {object} image in {style} style."
    if object:
        return f"A {object} image."
    if style:
        return f"An image in {style} style."
    return ""


ClipName = Literal["reward", "selection"]
Head = Literal["object", "style"]
TraitRole = Literal["reward", "selection", "judge"]
"""Which of the three networks that see traits: one rewards, one chooses checkpoints, one judges."""
Member = Literal["main", "second", "outline", "patches"]
PANEL: tuple[Member, ...] = ("second", "outline", "patches")
"""Further judges: another seed and size; one that sees nothing but outlines; a transformer on
patches."""


def pipeline_path() -> Path:
    """Folder in diffusers layout: `StableDiffusionPipeline.from_pretrained(pipeline_path())`."""
    return _WEIGHTS / "pipeline"


def clip_path(name: ClipName) -> Path:
    """Folder in open_clip layout; `reward` is for training on, `selection` for choosing checkpoints
    by.
    """
    if name not in ("reward", "selection"):
        raise ValueError(f"unknown CLIP {name!r}; there are 'reward' and 'selection'")
    return _WEIGHTS / f"clip-{name}"


def judge_path(head: Head, member: Member = "main") -> Path:
    """Folder of one judge: `config.json` and `model.safetensors`."""
    if head not in ("object", "style"):
        raise ValueError(f"unknown judge {head!r}; there are 'object' and 'style'")
    return _WEIGHTS / (f"judge-{head}" if member == "main" else f"panel-{member}-{head}")


def traits_path(role: TraitRole) -> Path:
    """Folder of one network that sees traits, as that of a judge."""
    if role not in ("reward", "selection", "judge"):
        raise ValueError(f"unknown role {role!r}; there are 'reward', 'selection' and 'judge'")
    return _WEIGHTS / f"traits-{role}"


def sprites_path() -> Path:
    """Returns the 160 rasterised drawings, (20, 8, 4, 64, 64) uint8 with premultiplied alpha."""
    return _WEIGHTS / "sprites.safetensors"
