"""What a family says about its folders."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rl_unlearn.config import Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.layouts.schedulers import Scheduler

Parts = Mapping[str, dict[str, Any]]
"""Configurations by the name of the component, absent if that is left out; `pipeline`:
model_index.json itself."""
REMEDY = "fetch the model again"


@dataclass(frozen=True)
class Network:
    """One of the networks in a folder."""

    kind: str
    """Its class, as model_index.json names it."""
    names: Callable[[Mapping[str, Any]], set[str] | None]
    """Names of all weights by the configuration; None: of another kind, which only loading can
    tell."""
    known_as: Callable[[Iterable[str]], set[str]] = set
    """Names in a file as the library reads them."""
    stem: str = "diffusion_pytorch_model"
    """Name of the file with the weights, without its ending."""


@dataclass(frozen=True)
class Layout:
    """One family's folders."""

    pipeline: str
    """Class of the pipeline, as model_index.json names it."""
    trained: str
    """Component that the adapter belongs to."""
    networks: Mapping[str, Network]
    tokenizers: Mapping[str, str]
    """Their classes in transformers."""
    latent: Callable[[Parts, tuple[int, int] | None], tuple[int, int, int]]
    """Channels, height and width of the latents for images of a height and width, None: of the
    model's own."""
    reads: Callable[[Parts], tuple[str, int]]
    """The tokenizer that reads most of a prompt, and how many tokens, its marks among them."""
    told: Callable[[Parts], dict[str, tuple[int, ...]]]
    """Shapes of what the network is told of a prompt: the tensors of
    `families.condition.Condition`, without rows."""
    check: Callable[[Parts], None]
    """Raises DataError unless the parts fit each other and can be trained."""
    notes: Callable[[Parts, Sampler | None], Iterator[str]]
    """What a person should know; raises ConfigError, for a sampler that is given, or DataError."""
    schedulers: Mapping[str, Scheduler]
    """By what else its images can be drawn, by name."""
    architecture: Callable[[Parts], tuple[str, str]]
    """What managers of LoRA files call the model: in Stability's model specification, and in
    kohya's words."""
    told_guidance: bool = False
    """Whether the network is told the guidance scale, and draws in one pass."""
    one_vocabulary: bool = False
    """Whether a single CLIP reads the prompts: attacks that search for words need its
    vocabulary."""
    single_file: bool = False
    """Whether its checkpoints come in one file that holds all networks."""
    kohya: Literal["plain", "counted"] | None = None
    """kohya's names of layers: diffusers' own, or its makers', who count all blocks through; None:
    not known."""
    framed: Callable[[Any, str], str] = lambda _tokenizer, text: text
    """A prompt as the tokenizer is given it, with what stands before it and nothing behind."""
    templates: frozenset[str] = frozenset()
    """Tokenizers that must bring the template of a talk."""
    optional: frozenset[str] = frozenset()
    """Networks, and their tokenizers, that a folder may leave out."""

    def present(self, index: Mapping[str, Any]) -> list[str]:
        """Components of a folder with this model_index.json, scheduler and tokenizers among
        them."""
        left_out = {name for name in self.optional if index.get(name) in (None, [None, None])}
        return [
            name for name in (*self.networks, *self.tokenizers, "scheduler") if name not in left_out
        ]

    def scheduler(self, name: str) -> Scheduler:
        """Returns one by its name; raises ConfigError, which names all, for what it has not."""
        if name not in self.schedulers:
            raise ConfigError(
                f"evaluation.scheduler={name} is not for a {self.pipeline}: use "
                f"{', '.join(self.schedulers)}, or none for the kernel of the training"
            )
        return self.schedulers[name]


def image_latent(
    parts: Parts,
    size: tuple[int, int] | None,
    channels: object,
    sample: object,
    multiple: int,
    scale: int | None = None,
) -> tuple[int, int, int]:
    """Shape of latents; ``sample``: the network's own size, ``multiple``: what it halves to.

    ``scale``: pixels to a latent, None: those of an AutoencoderKL. Raises DataError for a
    configuration without a size, ConfigError for a size that cannot be drawn.
    """
    if scale is None:
        scale = 2 ** (len(parts["vae"].get("block_out_channels", (64,))) - 1)
    if size is not None:
        step = scale * multiple
        if size[0] % step or size[1] % step:
            raise ConfigError(
                f"model.size={list(size)}: height and width must be multiples of {step} for this "
                "model"
            )
        sample = [size[0] // scale, size[1] // scale]
    height, width = (
        sample if isinstance(sample, list | tuple) and len(sample) == 2 else (sample, sample)
    )
    if not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 4096
        for n in (channels, height, width)
    ):
        raise DataError(
            f"the network's config.json names no size: sample_size {sample!r}, in_channels "
            f"{channels!r}"
        )
    return channels, height, width  # type: ignore[return-value]  # they are whole numbers


def check_autoencoder(parts: Parts, channels: object) -> None:
    """Raises DataError unless the autoencoder's latents are the network's."""
    vae = parts["vae"]
    latent = vae.get("latent_channels", 4)
    if not isinstance(channels, int) or not isinstance(latent, int):
        raise DataError(
            f"a configuration is damaged: {channels!r} channels, latent_channels {latent!r}: "
            f"{REMEDY}"
        )
    if channels != latent:
        kind = (
            ": an inpainting or depth model, which cannot be trained" if channels > latent else ""
        )
        raise DataError(
            f"the model's network takes {channels} channels, its vae gives {latent}{kind}"
        )
    for name, plain in (("scaling_factor", 0.18215), ("shift_factor", 0.0)):
        value = vae.get(name, plain)
        value = 0.0 if value is None and name == "shift_factor" else value
        fits = (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
        if not fits or (name == "scaling_factor" and value <= 0):
            raise DataError(f"vae/config.json: {name} is {value!r}: {REMEDY}")


def check_words(gives: object, reads: object, whose: str = "text_encoder") -> None:
    """Raises DataError unless the network reads the features a token that text encoders give."""
    if gives != reads:
        raise DataError(
            f"the model's {whose} gives {gives} features a token, its network reads {reads}: "
            f"{REMEDY}"
        )
