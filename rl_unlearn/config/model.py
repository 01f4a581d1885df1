"""Sections on what is to be unlearned, and in place of what: model, sampler, adapter, prompts,
reward.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rl_unlearn.config.section import Section, Strings, each_once
from rl_unlearn.files.text import cleaned

_Pixels = Annotated[int, Field(ge=8, le=8192, strict=True)]
Size = Annotated[tuple[_Pixels, _Pixels], Field(strict=False)]


class Model(Section):
    path: str = Field("canvas", min_length=1)
    """Pipeline to unlearn from: `canvas` (shipped), a diffusers folder, a hub id, or a checkpoint
    in one safetensors file, which needs `model.config`."""
    config: str | None = Field(None, min_length=1)
    """For a checkpoint in one file: a folder or hub id of the same kind of model, whose
    configurations it takes."""
    adapters: Strings = ()
    """Earlier erasures that are part of the model: run folders, adapter folders or files, fused
    into its UNet in this order. What they forgot stays out of the reward for keeping and out of
    IRA."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None takes the default branch. A run records the commit
    that it was."""
    variant: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Weights to read where there are several, such as `fp16`; None takes the plain ones, or `fp16`
    if these alone are there. A component that has no such variant gives its plain weights."""
    size: Size | None = None
    """Height and width of images in pixels, `[768, 512]`, or one number for a square; None takes
    the model's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where actors compute; `auto` takes a GPU if there is one."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Storage type of latents and compute type of the frozen weights; LoRA masters are always fp32.
    fp16 rounds eight times finer than bf16, whose rounding alone moves a step of Stable Diffusion
    by more than any budget: a run measures it after the warm-up and refuses budgets that it would
    use up."""
    compile: bool = False
    """Compile the network's repeated blocks by torch.compile, minutes of waiting at the first pass
    of each shape. No GPU has shown yet what it gains."""

    @field_validator("size", mode="before")
    @classmethod
    def _one_number_is_a_square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) else size

    @field_validator("adapters")
    @classmethod
    def _each_adapter_once(cls, adapters: tuple[str, ...]) -> tuple[str, ...]:
        return each_once(adapters)


class Sampler(Section):
    steps: int = Field(10, ge=2, le=1000)
    """Denoising steps of a trajectory, T."""
    eta: float = Field(1.0, gt=0, le=1)
    """Scale of a step's noise, as in DDIM; 0 would make the policy deterministic and is refused."""
    guidance: float = Field(1.0, ge=1, le=30)
    """Classifier-free guidance scale, the same in rollout and learner; 1 skips the second forward
    pass."""


class Lora(Section):
    rank: int = Field(32, ge=1, le=512)
    """Rank of the adapter; alpha equals the rank, so that scale 1 is the trained adapter."""
    layers: Literal["cross", "self", "attention"] = "cross"
    """Which attention projections of the UNet get an adapter."""
    start: str | None = Field(None, min_length=1)
    """Run folder, adapter folder or file whose adapter this one starts from, such as a supervised
    eraser's: of the same rank and layers. What is kept, and what the critic learns from first, are
    the untouched model's images all the same."""


class Prompts(Section):
    template: str = Field("A {object} image in {style} style.", max_length=500)
    """Prompt with the fields {object} and {style}."""
    object_template: str = Field("A {object} image.", max_length=500)
    """Phrase that stands for an object alone in the zero-shot reward."""
    style_template: str = Field("An image in {style} style.", max_length=500)
    """Phrase that stands for a style alone in the zero-shot reward."""
    objects: Strings = ()
    """Objects of the world; empty means the canvas's twenty."""
    styles: Strings = ()
    """Styles of the world; empty means the canvas's eight."""
    targets: Strings = ()
    """Whose images shall lose what `concept=image:NAME` sees: objects, or `style:NAME`, of one
    kind. Everything else that these prompts ask for is kept; all other prompts are."""
    target_file: str | None = None
    """Text file, one prompt a line, whose images must lose the concept (with retain_file: replaces
    the grid of objects and styles)."""
    retain_file: str | None = None
    """Text file, one prompt a line, to be kept as it is."""
    target_fraction: float = Field(0.875, gt=0, le=1)
    """Share of a round's images drawn for target prompts; the rest watches retained ones."""

    @field_validator("objects", "styles", "targets")
    @classmethod
    def _each_class_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(cleaned, each_once(names)))


class Reward(Section):
    clip: str = Field("canvas", min_length=1)
    """Reward CLIP: `canvas`, a folder, or an open_clip `arch/pretrained`; never a judge."""
    forget: float = Field(1.0, ge=0)
    """Weight of the concept's negative log-odds on target prompts: the reward CLIP's, or those of
    the function of `concept=image:NAME`, where yes is +bound and no is -bound."""
    coherence: float = Field(3.0, ge=0)
    """Weight of the log-probability of the rest of the prompt (its style, or its object) on target
    prompts. Plays no part for `concept=image:NAME`, nor do presence and anchor."""
    presence: float = Field(4.0, ge=0)
    """Weight of the anchor's log-probability on target prompts: something must be there instead."""
    anchor: Strings = ()
    """What should be there instead, in order of preference: the first that is another class of the
    concept's domain. `nearest` is the one whose phrase the reward CLIP finds most similar. Empty
    means the canvas's own (a dog; for a dog, a rabbit), elsewhere the nearest."""
    retain: float = Field(1.0, ge=0)
    """Weight of the log-probability of what was asked on retain prompts, and for
    `concept=image:NAME` on target prompts, too."""
    images: dict[str, float] = Field({})
    """Further rewards that see nothing but the image, with their weights, for every prompt:
    `jpeg_kilobytes`, `classifier:FOLDER:LABEL` (log-probability of a transformers or timm folder's
    label), or a name that the program's own API was given a function for."""
    bound: float = Field(8.0, gt=0)
    """Log-odds and log-probabilities are clipped at +-bound nats, so that no image is worth
    exploiting."""

    @field_validator("anchor", mode="before")
    @classmethod
    def _one_anchor_is_a_list_of_one(cls, anchor: object) -> object:
        return (anchor,) if isinstance(anchor, str) else anchor
