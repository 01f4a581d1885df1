"""An adapter folded into the weights of its model, and the check that a copy computes what the original does."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor

from experiments.models import load_model
from rl_unlearn.adapter import read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.pipeline import attach

TOLERANCE = 1e-4
"""Largest difference of the UNet's output that a copy may show, relative to the output's largest value."""


def merge(adapter: Path, out: Path, config: Config) -> dict[str, Any]:
    """Writes a pipeline folder, fp32 safetensors with the run's DDIM scheduler, that draws what the adapter draws.

    `out` must be absent or empty. The folder is made aside and renamed, so it is whole or absent.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already holds something; choose another --out")
    pipeline = load_model(config.model)
    expected = probe(pipeline, adapter)
    attach(pipeline, read_adapter(adapter), str(adapter))
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()
    aside = out.absolute().parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        pipeline.save_pretrained(aside, safe_serialization=True)
        for weights in aside.rglob("*.safetensors"):  # the library's are for its user's eyes alone
            weights.chmod(0o666 & ~_umask())
        copy = load_model(config.model.model_copy(update={"path": str(aside), "revision": None, "adapters": ()}))
        found = largest(expected, probe(copy, None))
        if not found <= TOLERANCE:  # NaN, too, is a difference
            raise DataError(f"the merged weights change the UNet's output by {found:.2g}; nothing was written")
        if out.is_dir():
            out.rmdir()
        aside.rename(out)
    except (OSError, SafetensorError) as error:
        raise MachineError(f"cannot write {out}: {error}; free space or choose another --out") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {
        "file": str(out), "format": "merged", "tensors": len(read_adapter(adapter)), "largest_difference": found
    }  # fmt: skip


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def difference(pipeline: StableDiffusionPipeline, first: Path, second: Path) -> float:
    """Largest difference of the UNet's output between two adapter files, relative to the output's size."""
    return largest(probe(pipeline, first), probe(pipeline, second))


def largest(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest value expected."""
    return float((expected - found).abs().max() / expected.abs().max())


@torch.no_grad()
def probe(pipeline: StableDiffusionPipeline, adapter: Path | None) -> Tensor:
    """The UNet's output on fixed noise, with an adapter or without; the pipeline is left as it was."""
    if adapter is not None:
        attach(pipeline, read_adapter(adapter), str(adapter))
    unet = pipeline.unet
    size = unet.config.sample_size
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(2, unet.config.in_channels, size, size, generator=noise)
    words = torch.randn(2, 8, unet.config.cross_attention_dim, generator=noise)
    output: Tensor = unet(latents, torch.tensor([1, 500]), encoder_hidden_states=words).sample
    if adapter is not None:
        pipeline.unload_lora_weights()
    return output
