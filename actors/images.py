"""The image actor: images of prompts, by the untouched model or with an adapter."""

import resource
import time
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from rl_unlearn import memory
from rl_unlearn.adapters.adapter import AdapterState, digest
from rl_unlearn.config import Config, Lora
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models.foundation import model_digest
from rl_unlearn.policy import DiffusionPolicy


@dataclass(frozen=True)
class ModelVariant:
    """The model that draws: untouched, or with an adapter. Made by the driver, used by its
    actors."""

    lora: Lora
    """Shape of the adapter."""
    adapter: AdapterState | None
    """None draws with the untouched model."""


@dataclass(frozen=True)
class Images:
    """A batch of images and what drawing it took. Made by image actors, kept by the driver."""

    pixels: UInt8[Tensor, "batch 3 height width"]
    seconds: float
    peak_memory_bytes: int
    """Largest memory of the process so far, or on a GPU the largest allocated on it."""


class ImageActor:
    """Actor that holds one pipeline.

    Drawing is a pure function of its arguments, so a lost call may be repeated.
    """

    def __init__(self, config: Config, threads: int | None = None):
        if threads is not None:
            torch.set_num_threads(threads)
        self._config = config
        self._digest = model_digest(config.model)
        self._policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
        self._schedule = Schedule.of(config)
        self._lora = config.lora
        self._loaded: str | None = None

    def model_digest(self) -> str:
        """Returns the checksum of the untouched pipeline."""
        return self._digest

    @memory.enough_for("the image actor", memory.IMAGES)
    @torch.no_grad()
    def draw(self, variant: ModelVariant, texts: tuple[str, ...], seeds: tuple[int, ...]) -> Images:
        """Draws one image for each text and seed, in one batch, with 8 bits a channel."""
        start = time.monotonic()
        if variant.adapter is not None:
            self._take(variant.lora, variant.adapter)
        with self._policy.adapter_enabled(variant.adapter is not None):
            images = self._policy.generate(list(texts), list(seeds), len(texts), self._schedule)
        pixels = (images * 255).round().to(torch.uint8)
        return Images(pixels, time.monotonic() - start, _peak_memory(self._policy.device))

    def _take(self, lora: Lora, adapter: AdapterState) -> None:
        if lora != self._lora:  # an adapter of another shape needs another policy
            config = self._config.model_copy(update={"lora": lora})
            self._policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
            self._lora, self._loaded = lora, None
        name = digest(adapter)
        if name != self._loaded:
            self._policy.load_adapter(adapter)
            self._loaded = name


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
