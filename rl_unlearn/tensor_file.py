"""A safetensors file that is whole or absent."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rl_unlearn.durable import settle
from rl_unlearn.errors import MachineError


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes it in one step, tensors of any shape; raises MachineError if the disk does not take it."""
    aside = path.with_name(path.name + ".tmp")
    try:
        save_file(dict(tensors), aside, metadata=dict(metadata))
        settle(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise MachineError(f"cannot write {path}: {error}; free space and resume the run") from error
