"""Safetensors files that are whole or absent, and whose bytes depend on nothing but what they
hold."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from rl_unlearn.errors import DataError
from rl_unlearn.files.durable import write_whole


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a file: equal content gives equal bytes, which the library's order of
    the metadata does not.
    """
    content = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata)
    )
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(metadata.items()))} | {
        k: v for k, v in header.items() if k != "__metadata__"
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    sealed: bytes = len(text).to_bytes(8, "little") + text + content[8 + length :]
    return sealed


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes it in one step, tensors of any shape; raises MachineError if the disk does not take
    it.
    """
    write_whole(path, pack(tensors, metadata), "free space and resume the run")


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Returns all tensors of a file, on the CPU; raises DataError, which names ``what`` it should
    be, if they cannot be had.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{what} {str(path)!r} is not a valid safetensors file: {reason}: make it again"
        ) from error
