"""Adapters as files: what they say about themselves, and the formats they leave in."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.evaluation.models import load_model
from experiments.export import merging
from experiments.export.card import NAME, PICTURE, write_card
from experiments.export.manager_metadata import described_for_managers, for_others
from experiments.files import make_folder, write_bytes
from rl_unlearn.adapters.adapter import component, read_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME, locate, metadata
from rl_unlearn.adapters.kohya import to_kohya
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.files.tensor_file import pack
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import read_layout, read_parts
from rl_unlearn.policy import DiffusionPolicy

FORMATS = ("diffusers", "kohya", "merged")


def described(path: Path) -> list[str]:
    """Returns the overrides that rebuild the model the adapter belongs to."""
    about, state = metadata(path), read_adapter(path)
    rank = next(tensor.shape[0] for name, tensor in state.items() if ".lora_A" in name)
    keys = {
        "base_model": "model.path",
        "base_config": "model.config",
        "base_revision": "model.revision",
        "base_variant": "model.variant",
        "size": "model.size",
        "adapters": "model.adapters",
        "concept": "concept",
        "seed": "seed",
        "steps": "sampler.steps",
        "eta": "sampler.eta",
        "guidance": "sampler.guidance",
    }
    known = [f"{key}={about[name]}" for name, key in keys.items() if about.get(name)]
    return [*known, f"lora.rank={rank}", f"lora.layers={_layers(state)}"]


def _layers(names: Iterable[str]) -> str:
    """Returns the setting `lora.layers` that gives these.

    Words and image attend by turns, in one row or as two sides.
    """
    ends = {name.partition(".lora_")[0] for name in names}
    if all(re.search(r"\.attn[12]\.", end) for end in ends):
        words, image = r"\.attn2\.", r"\.attn1\."
    elif all(".attention." in end for end in ends):
        words, image = r"^layers\.", r"_refiner\."
    else:
        words, image = r"\.(add_[qkv]_proj|to_add_out)$", r"\.(to_[qkv]|to_out\.0)$"
    has = [any(re.search(side, end) for end in ends) for side in (words, image)]
    return "attention" if all(has) else "self" if has[1] else "cross"


def export(path: Path, format: str, out: Path, config: Config) -> dict[str, Any]:
    """Writes the adapter in `format` with a model card into folder `out`.

    What is written is checked to give the same in plain diffusers. `merged` writes a whole pipeline
    folder with the adapter in its weights. Raises ConfigError if it would replace a file, DataError
    if the copy differs or the adapter does not fit the model, MachineError if it cannot be written.
    """
    # diffusers leaves out what has no place in the model without an error.
    DiffusionPolicy(load_model(config.model), config).load_adapter(read_adapter(path))
    if format == "merged":
        return merging.merge(locate(path), out, config) | {
            "card": str(write_card(path, out, config, format, pictured=True))
        }
    source = locate(path)
    adapter = read_adapter(path)
    part = component(adapter)
    state = {f"{part}.{name}": tensor for name, tensor in adapter.items()}
    if format == "kohya":
        folder = fetched_folder(config.model)
        layers = read_parts(folder)[part].get("layers_per_block")
        state = to_kohya(adapter, read_layout(folder), layers)
        target = out / f"{config.run_name}.safetensors"
    else:
        target = out / FILE_NAME
    for file in (target, out / NAME, out / PICTURE):
        if file.exists():
            raise ConfigError(f"{file} exists already; choose another --out, or remove it")
    make_folder(out, "choose another --out")
    pipeline = load_model(config.model)
    content = pack(state, for_others(metadata(path)) | described_for_managers(state, config))
    aside = out / f".check-{target.name}"
    try:
        write_bytes(aside, content)
        difference = merging.difference(pipeline, source, aside, config)
    finally:
        with suppress(OSError):  # on a read-only disk this fails, too, and would hide the cause
            aside.unlink(missing_ok=True)
    if not difference <= merging.TOLERANCE:  # NaN, too, is a difference
        raise DataError(
            f"{format} export of {source} changes the network's output by {difference:.2g}; "
            "nothing was written"
        )
    write_bytes(target, content)
    card = write_card(path, out, config, format, target.name, pictured=True)
    return {
        "file": str(target), "format": format, "tensors": len(state),
        "largest_difference": difference,
        "card": str(card),
    }  # fmt: skip
