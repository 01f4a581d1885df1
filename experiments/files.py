"""Files that are whole or absent: written aside, synced, renamed."""

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from rl_unlearn.errors import MachineError
from rl_unlearn.files.durable import write_whole
from rl_unlearn.files.json_file import read_object


def make_folder(path: Path, remedy: str) -> None:
    """Makes a folder with its parents, if it is not there yet.

    `remedy` tells a person what to change if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make folder {path}: {error.strerror}; {remedy}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Puts `content` at `path` in one step; a crash leaves the old file or the new one."""
    write_whole(path, content, "free space or choose another place")


def write_text(path: Path, content: str) -> None:
    """Writes text as `write_bytes` does."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, readable by people, as `write_bytes` does."""
    write_text(path, to_json(content, indent=2) + "\n")


def append(file: TextIO, row: Any, synced: bool = False) -> None:
    """Adds a line of JSON at once, `synced` onto the disk.

    Raises MachineError if the disk does not take it.
    """
    try:
        file.write(to_json(row) + "\n")
        file.flush()
        if synced:
            os.fsync(file.fileno())
    except OSError as error:
        raise MachineError(
            f"cannot write {file.name}: {error.strerror}; free space and resume the run"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or an empty one where there is no file."""
    return read_object(path) if path.exists() else {}


def to_json(content: Any, indent: int | None = None) -> str:
    """Returns strict JSON.

    Numbers of NumPy and torch become plain ones, NaN and infinity become null.
    """
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if hasattr(content, "tolist"):
        return _plain(content.tolist())
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    if content is None or isinstance(content, str | int):
        return content
    return str(content)
