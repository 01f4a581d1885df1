"""An adapter folded into the weights of its model, and the check that a copy computes what the original does."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from experiments.models import load_model
from rl_unlearn.adapter import read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.families.of import family_of
from rl_unlearn.model_folder import fetched_folder, latent_shape, trained
from rl_unlearn.pipeline import attach

TOLERANCE = 1e-4
"""Largest difference of the network's output that a copy may show, relative to the output's largest value."""


def merge(adapter: Path, out: Path, config: Config) -> dict[str, Any]:
    """Writes a pipeline folder, fp32 safetensors with the run's DDIM scheduler, that draws what the adapter draws.

    `out` must be absent or empty. The folder is made aside and renamed, so it is whole or absent.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already holds something; choose another --out")
    pipeline, component = load_model(config.model), trained(config.model)
    expected = probe(pipeline, adapter, config)
    attach(pipeline, read_adapter(adapter), str(adapter), component)
    pipeline.fuse_lora(components=[component])
    pipeline.unload_lora_weights()
    aside = out.absolute().parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        pipeline.save_pretrained(aside, safe_serialization=True)
        for weights in aside.rglob("*.safetensors"):  # the library's are for its user's eyes alone
            weights.chmod(0o666 & ~_umask())
        model = config.model.model_copy(update={"path": str(aside), "revision": None, "adapters": ()})
        copy = config.model_copy(update={"model": model})
        found = largest(expected, probe(load_model(model), None, copy))
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


def difference(pipeline: Any, first: Path, second: Path, config: Config) -> float:
    """Largest difference of the network's output between two adapter files, relative to the output's size."""
    return largest(probe(pipeline, first, config), probe(pipeline, second, config))


def largest(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest value expected."""
    return float((expected - found).abs().max() / expected.abs().max())


@torch.no_grad()
def probe(pipeline: Any, adapter: Path | None, config: Config) -> Tensor:
    """The network's output on fixed noise, with an adapter or without; the pipeline is left as it was."""
    folder = fetched_folder(config.model)
    if adapter is not None:
        attach(pipeline, read_adapter(adapter), str(adapter), trained(config.model))
    family = family_of(folder)(pipeline, config.sampler, latent_shape(folder, config.model))
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([0, len(family.kernel) - 1])
    output = family.predict(latents, index, family.encode(["one prompt", "another"]))
    if adapter is not None:
        pipeline.unload_lora_weights()
    return output
