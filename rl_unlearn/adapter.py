"""LoRA adapters on disk, and their checksum: safetensors in diffusers' keys, loadable by plain diffusers."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.tensor_file import save_tensors

FILE_NAME = "pytorch_lora_weights.safetensors"
_PREFIX = "unet."

AdapterState = dict[str, Float[Tensor, "rows columns"]]


def digest(state: AdapterState) -> str:
    """SHA-256 over names, shapes and bytes: tells whether a hand-over changed, or failed to change, anything."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def save_adapter(folder: str | Path, state: AdapterState, config: Config) -> None:
    """Writes ``folder/pytorch_lora_weights.safetensors`` atomically, with what :func:`metadata` gives back."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + name: t.to("cpu", torch.float32).contiguous() for name, t in state.items()}
    metadata = {
        "base_model": config.model.path,
        "base_revision": config.model.revision or "",
        "adapters": ",".join(config.model.adapters),
        "concept": config.concept,
        "seed": str(config.seed),
        "steps": str(config.sampler.steps),
        "eta": str(config.sampler.eta),
        "guidance": str(config.sampler.guidance),
        "digest": digest(state),
        "format": "pt",
    }
    save_tensors(tensors, folder / FILE_NAME, metadata)


def locate(path: str | Path) -> Path:
    """The adapter file of a run folder, adapter folder or file; DataError if there is none."""
    path = Path(path)
    if path.suffix in {".bin", ".pt", ".ckpt", ".pth", ".pkl"}:
        raise DataError(f"adapter {str(path)!r} is a pickle, which can run code when read: convert it to safetensors")
    candidates = [path] if path.is_file() else [path / "adapter" / FILE_NAME, path / FILE_NAME]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        raise DataError(f"no adapter at {str(path)!r}: give a run folder, or a folder that holds {FILE_NAME}")
    return found


def metadata(path: str | Path) -> dict[str, str]:
    """What an adapter says about itself, if it is ours: base_model, adapters below it, concept, sampler, digest ..."""
    found = locate(path)
    try:
        with safe_open(found, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DataError(f"adapter {str(found)!r} is not a valid safetensors file: {error}") from error


def read_adapter(path: str | Path) -> AdapterState:
    """The LoRA state in an adapter folder, a run folder or a .safetensors file; DataError if missing or invalid."""
    found = locate(path)
    try:
        state = load_file(found)
    except (SafetensorError, OSError) as error:
        raise DataError(f"adapter {str(found)!r} is not a valid safetensors file: {error}") from error
    if not state or not all(name.startswith(_PREFIX) and ".lora_" in name for name in state):
        raise DataError(
            f"adapter {str(found)!r} holds no UNet LoRA in diffusers' keys: give a run's own adapter, not its kohya "
            "export, and none that changes the text encoder"
        )
    pairs = {name.replace(".lora_A.", ".lora_B.") for name in state if ".lora_A." in name}
    if pairs != {name for name in state if ".lora_A." not in name}:
        raise DataError(f"adapter {str(found)!r} lacks one factor of some layers: the file is cut, make it again")
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DataError(f"adapter {str(found)!r} holds NaN or infinity: its training failed, make it again")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
