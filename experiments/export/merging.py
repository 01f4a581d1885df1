"""An adapter folded into the weights of its model, and the check that a copy computes what the
original does.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from experiments.evaluation.models import load_model
from experiments.export.source_copy import copy_source
from rl_unlearn.adapters.adapter import read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import attach
from rl_unlearn.files.tensor_file import read_tensors
from rl_unlearn.files.tensor_header import read_header
from rl_unlearn.models.location import fetched_folder, trained, whole_folder
from rl_unlearn.models.model_folder import first_file, latent_shape, weight_files
from rl_unlearn.models.weight_names import is_index

TOLERANCE = 1e-4
"""Largest difference of the network's output that a copy may show, relative to the output's largest
value."""
_ROUNDINGS = 64
"""The same for weights of fewer bits, in the rounding of one of them."""


def merge(adapter: Path, out: Path, config: Config) -> dict[str, Any]:
    """Writes the model's folder with the adapter in its weights, which keep their type.

    All else is as it lies there. `out` must be absent or empty. The folder is made aside and
    renamed, so it is whole or absent.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already holds something; choose another --out")
    config = _with_model(config, dtype="fp32")
    source, component = whole_folder(config.model), trained(config.model)
    pipeline = load_model(config.model)
    expected = probe(pipeline, adapter, config)
    attach(pipeline, read_adapter(adapter), str(adapter), component)
    pipeline.fuse_lora(components=[component])
    pipeline.unload_lora_weights()
    aside = out.absolute().parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        lost = copy_source(source, aside, component)
        weights = getattr(pipeline, component).state_dict()
        tolerance = max(
            [
                _write(file, aside / component, weights)
                for file in _sources(source, config, component)
            ]
        )
        rounded = probe(pipeline, None, config)
        copy = _with_model(config, path=str(aside), config=None, revision=None, adapters=())
        made = probe(load_model(copy.model), None, copy)
        change = largest(expected, made)
        # NaN, too, is a difference. What was written is what was meant, and that is the adapter but
        # for rounding.
        if not (largest(rounded, made) <= TOLERANCE and change <= tolerance):
            raise DataError(
                f"the merged weights change the network's output by {change:.2g}; nothing was "
                "written"
            )
        if out.is_dir():
            out.rmdir()
        aside.rename(out)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"cannot write {out}: {error}; free space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {
        "file": str(out), "format": "merged", "tensors": len(read_adapter(adapter)),
        "largest_difference": change,
        "left_out": lost,
    }  # fmt: skip


def _with_model(config: Config, /, **changes: Any) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def _sources(source: Path, config: Config, component: str) -> list[Path]:
    """Returns the files with the component's weights, and at the end their index, if any."""
    first = first_file(source, component, config.model.variant)
    files = weight_files(source, component, config.model.variant)
    return files if first in files else [*files, first]


@torch.no_grad()
def _write(file: Path, folder: Path, weights: dict[str, Tensor]) -> float:
    """Writes a file's weights anew, each in the type that it has there.

    The given ones are rounded to the same. Returns how far the output may differ for that; an index
    is copied.
    """
    if is_index(file.name):
        shutil.copyfile(file, folder / file.name)
        return TOLERANCE
    state, tolerance = read_tensors(file, "the model's file"), TOLERANCE
    for name, before in state.items():
        if before.is_floating_point():
            state[name] = weights[name].to("cpu", before.dtype).contiguous()
            weights[name].copy_(state[name])
            tolerance = max(tolerance, _ROUNDINGS * torch.finfo(before.dtype).eps)
    save_file(state, folder / file.name, read_header(file).metadata or None)
    (folder / file.name).chmod(0o666 & ~_umask())  # the library's are for its user's eyes alone
    return tolerance


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def difference(pipeline: Any, first: Path, second: Path, config: Config) -> float:
    """Returns the largest difference of the network's output between two adapter files.

    It is relative to the output's size.
    """
    return largest(probe(pipeline, first, config), probe(pipeline, second, config))


def largest(expected: Tensor, output: Tensor) -> float:
    """Returns the largest difference of two outputs, relative to the largest value expected."""
    return float((expected - output).abs().max() / expected.abs().max())


@torch.no_grad()
def probe(pipeline: Any, adapter: Path | None, config: Config) -> Tensor:
    """Returns the network's output on fixed noise, with an adapter or without.

    The pipeline is left as it was.
    """
    folder = fetched_folder(config.model)
    if adapter is not None:
        attach(pipeline, read_adapter(adapter), str(adapter), trained(config.model))
    family = family_of(folder)(pipeline, config.sampler, latent_shape(folder, config.model))
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    first_and_last = family.kernel.timesteps[[0, -1]]
    output = family.predict(latents, first_and_last, family.encode(["one prompt", "another"]))
    if adapter is not None:
        pipeline.unload_lora_weights()
    return output
