"""The header of a safetensors file: names, shapes and metadata, without its tensors and without
torch.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object

_MAX_BYTES = 100_000_000
"""What the format's own readers allow."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a file says that it holds."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """In the format's own words: F32, BF16, ..."""
    metadata: dict[str, str]


def read_header(path: Path, remedy: str = "fetch or make it again") -> Header:
    """Returns the header, checked against the file's size, so that a file that was cut is found
    out.

    Raises DataError for a file that is absent or no whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if 0 < length <= min(size - 8, _MAX_BYTES) else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}: {remedy}") from error
    if not content:
        raise DataError(f"{path} is no safetensors file: {remedy}")
    header = parse_object(content, path, remedy)
    metadata = header.pop("__metadata__", {})
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    end = 0
    try:
        for name, row in header.items():
            shape, (start, stop) = tuple(row["shape"]), row["data_offsets"]
            numbers = (*shape, start, stop)
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError(f"{name} has no shape")
            if (stop - start) * 8 != math.prod(shape) * _BITS[row["dtype"]]:
                raise ValueError(f"{name} has not the size that its shape needs")
            shapes[name], dtypes[name], end = shape, row["dtype"], max(end, stop)
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not texts")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no safetensors file ({error}): {remedy}") from error
    if size != 8 + length + end:
        raise DataError(
            f"{path} has {size} bytes, not the {8 + length + end} of its tensors: {remedy}"
        )
    return Header(shapes, dtypes, metadata)
