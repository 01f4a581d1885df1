"""SHA-256 of files, computed once: a cache of the user's own knows them by path, size and times."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files.durable import write_whole
from rl_unlearn.files.json_file import read_object

_WORTH_KEEPING = 2**20
"""Bytes; a smaller file is read faster than it is looked up."""
_MOST = 10_000
"""Files that the cache remembers."""


def cache_file() -> Path:
    """Tells where the digests are kept between programs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with suppress(RuntimeError):  # there is nobody whose home it could be
        root = root.expanduser()
    return root / "rl-unlearn" / "digests.json"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; raises DataError if it cannot be read."""
    try:
        about = path.stat()
        place = str(path.resolve())
        # Neither a write that keeps the time of change nor a rename over it goes unseen by all of
        # these.
        stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
        known = _known() if about.st_size >= _WORTH_KEEPING else {}
        if known.get(place, {}).get("stamp") == stamp:
            return str(known[place]["sha256"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if about.st_size >= _WORTH_KEEPING:
        _remember(place, {"stamp": stamp, "sha256": digest})
    return digest


def folder_digest(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files, whatever folder they are in."""
    rows = sorted(f"{path.name} {file_digest(path)}" for path in files)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _known() -> dict[str, dict[str, object]]:
    try:
        digests = read_object(cache_file())
    except DataError:  # none yet, or damaged: it is only a cache
        return {}
    return {
        path: row
        for path, row in digests.items()
        if isinstance(row, dict) and isinstance(row.get("sha256"), str)
    }


def _remember(place: str, row: dict[str, object]) -> None:
    known = _known()
    known.pop(place, None)
    kept = dict([*known.items(), (place, row)][-_MOST:])
    if not cache_file().is_absolute():  # nobody's home
        return
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache_file(), json.dumps(kept).encode(), "")
    except (OSError, MachineError):
        pass  # a home that cannot be written: it is computed again
