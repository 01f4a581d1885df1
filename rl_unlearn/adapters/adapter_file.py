"""Where an adapter lies, and what its file says about itself; read without torch."""

from pathlib import Path

from rl_unlearn.errors import DataError
from rl_unlearn.files.tensor_header import read_header

FILE_NAME = "pytorch_lora_weights.safetensors"
STRENGTH = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration, as JSON, in the metadata of a file."""
PICKLES = {".bin", ".pt", ".ckpt", ".pth", ".pkl"}


def locate(path: str | Path) -> Path:
    """Finds the adapter file of a run folder, adapter folder or file; raises DataError if there is
    none.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise DataError(
            f"adapter {str(path)!r} is a pickle, which can run code when read: convert it to "
            "safetensors"
        )
    candidates = [path] if path.is_file() else [path / "adapter" / FILE_NAME, path / FILE_NAME]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None:
        raise DataError(
            f"no adapter at {str(path)!r}: give a run folder, or a folder that holds {FILE_NAME}"
        )
    return file


def metadata(path: str | Path) -> dict[str, str]:
    """Reads what an adapter says about itself, if it is ours: base_model, adapters below it,
    concept, sampler, digest ...

    Raises DataError if there is none, or no whole safetensors file.
    """
    return dict(read_header(locate(path), "its adapter cannot be read; make it again").metadata)
