"""Images of an evaluation on disk, found again by what they depend on: a killed evaluation
continues, a repeated one draws nothing, and every comparison shares the untouched model's images.

A folder for each model, named by a hash of its weights, adapter, sampler and scheduler; in it a
file for each batch, named by a hash of its prompts and noise seeds. Files are whole or absent and
carry their own checksum; a damaged one is drawn again. The cache may be deleted at any time.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actors.images import Images, ModelVariant
from cluster.images import Batch, ImageSource
from experiments.files import make_folder, to_json, write_bytes
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError
from rl_unlearn.evaluation.images import Plan
from rl_unlearn.files.tensor_file import pack
from rl_unlearn.layouts.schedulers import Schedule

FOLDER = ".answers"


@dataclass(frozen=True)
class CachedImages:
    """The images of one model, in files, and what drawing them took, whenever that was."""

    files: tuple[Path, ...]
    seconds: float
    peak_memory_bytes: int
    drawn: int
    """How many had to be drawn now; the others were there."""

    def images(self) -> Iterator[UInt8[Tensor, "batch 3 height width"]]:
        """Yields the images, batch by batch, in the plan's order."""
        for file in self.files:
            images = _read(file)
            if images is None:
                raise MachineError(f"{file} changed while it was used; run the evaluation again")
            yield images.pixels


def cached(
    variant: ModelVariant,
    plan: Plan,
    config: Config,
    source: ImageSource,
    progress: Callable[[int, int], None] | None = None,
) -> CachedImages:
    """Returns the images of a plan; draws what is not in the cache yet, and keeps each batch as
    soon as it is drawn.

    `progress` takes how many images there are, and how many there will be.
    """
    folder = Path(config.output) / FOLDER / _model_key(variant, config, source.model_digest())
    make_folder(folder, "set output=... to a writable folder")
    batches = _batches(plan, config.evaluation.batch)
    files = [folder / f"{_key(batch)}.safetensors" for batch in batches]
    costs: dict[int, tuple[float, int]] = {}
    for number, file in enumerate(files):
        images = _read(file)
        if images is not None and len(images.pixels) == len(batches[number][0]):
            costs[number] = (images.seconds, images.peak_memory_bytes)
    missing = {number: batch for number, batch in enumerate(batches) if number not in costs}

    def count() -> int:
        return sum(len(batches[number][0]) for number in costs)

    def keep(number: int, images: Images) -> None:
        write_bytes(files[number], _pack(images))
        costs[number] = (images.seconds, images.peak_memory_bytes)
        if progress:
            progress(count(), len(plan.prompts))

    already = count()
    if progress:
        progress(already, len(plan.prompts))
    source.draw(variant, missing, keep)
    return CachedImages(
        tuple(files),
        sum(seconds for seconds, _ in costs.values()),
        max(memory for _, memory in costs.values()),
        len(plan.prompts) - already,
    )


def _batches(plan: Plan, size: int) -> list[Batch]:
    return [
        (plan.texts[i : i + size], plan.seeds[i : i + size])
        for i in range(0, len(plan.texts), size)
    ]


def _model_key(variant: ModelVariant, config: Config, model: str) -> str:
    adapter = None if variant.adapter is None else digest(variant.adapter)
    drawn = [model, adapter, config.sampler.model_dump(), config.model.dtype, config.model.size]
    schedule = Schedule.of(config)
    return _key(drawn if schedule is None else [*drawn, schedule.name, schedule.steps])


def _key(content: object) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:32]


def _pack(images: Images) -> bytes:
    pixels = images.pixels.contiguous()
    metadata = {
        "sha256": _sum(pixels),
        "seconds": repr(images.seconds),
        "peak_memory_bytes": str(images.peak_memory_bytes),
    }
    return pack({"images": pixels}, metadata)


def _read(file: Path) -> Images | None:
    """Returns the batch in a file, None if there is no whole one: safetensors sees a cut, the
    checksum a flipped bit.
    """
    try:
        with safe_open(file, framework="pt") as content:
            about = content.metadata() or {}
            pixels = content.get_tensor("images")
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or _sum(pixels) != about["sha256"]:
            return None
        return Images(pixels, float(about["seconds"]), int(about["peak_memory_bytes"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _sum(pixels: UInt8[Tensor, "batch 3 height width"]) -> str:
    return hashlib.sha256(str(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()
