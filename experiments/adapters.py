"""Adapters as files: what they say about themselves, and the formats they leave in."""

from pathlib import Path
from typing import Any

from diffusers.utils import convert_state_dict_to_kohya
from safetensors import safe_open
from safetensors.torch import save

from experiments import merging
from experiments.card import write_card
from experiments.files import write_bytes
from experiments.models import load_model
from rl_unlearn.adapter import FILE_NAME, read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError, MachineError

FORMATS = ("diffusers", "kohya", "merged")


def locate(path: Path) -> Path:
    """The adapter file of a run folder, adapter folder or file; `read_adapter` has checked it."""
    read_adapter(path)
    return next(file for file in (path, path / "adapter" / FILE_NAME, path / FILE_NAME) if file.is_file())


def metadata(path: Path) -> dict[str, str]:
    """What the file says about base model, concept and seed."""
    with safe_open(locate(path), framework="pt") as file:
        return dict(file.metadata() or {})


def described(path: Path) -> list[str]:
    """Overrides that rebuild the model the adapter belongs to."""
    about, state = metadata(path), read_adapter(path)
    rank = next(tensor.shape[0] for name, tensor in state.items() if ".lora_A" in name)
    kinds = {kind for kind in ("attn1", "attn2") for name in state if f".{kind}." in name}
    layers = "attention" if len(kinds) == 2 else "self" if "attn1" in kinds else "cross"
    keys = {"base_model": "model.path", "base_revision": "model.revision", "concept": "concept", "seed": "seed"}
    known = [f"{key}={about[name]}" for name, key in keys.items() if about.get(name)]
    return [*known, f"lora.rank={rank}", f"lora.layers={layers}"]


def export(path: Path, format: str, out: Path, config: Config) -> dict[str, Any]:
    """Writes the adapter in `format` with a model card into folder `out`, checked to give the same in plain diffusers.

    `merged` writes a whole pipeline folder with the adapter in its weights. DataError if the copy differs or `out`
    already holds something else, MachineError if it cannot be written.
    """
    if format == "merged":
        return merging.merge(locate(path), out, config) | {"card": str(write_card(path, out, config, format))}
    source = locate(path)
    state = {f"unet.{name}": tensor for name, tensor in read_adapter(path).items()}
    if format == "kohya":
        state = {name: tensor.contiguous() for name, tensor in convert_state_dict_to_kohya(state).items()}
        target = out / f"{config.run_name}.safetensors"
    else:
        target = out / FILE_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make folder {out}: {error.strerror}; choose another --out") from error
    if target.exists() and target.samefile(source):
        raise DataError(f"{target} is the adapter itself; choose another --out")
    pipeline = load_model(config.model)
    content = save(state, metadata=metadata(path) | {"format": "pt"})
    aside = out / f".check-{target.name}"
    try:
        write_bytes(aside, content)
        difference = merging.difference(pipeline, source, aside)
    finally:
        aside.unlink(missing_ok=True)
    if difference > merging.TOLERANCE:
        raise DataError(
            f"{format} export of {source} changes the UNet's output by {difference:.2g}; nothing was written"
        )
    write_bytes(target, content)
    card = write_card(path, out, config, format, target.name)
    return {
        "file": str(target), "format": format, "tensors": len(state), "largest_difference": difference,
        "card": str(card),
    }  # fmt: skip
