"""Files that are whole or absent: written aside, synced, renamed."""

import os
from contextlib import suppress
from pathlib import Path

from rl_unlearn.errors import MachineError


def write_whole(path: Path, content: bytes, remedy: str) -> None:
    """Puts ``content`` at ``path`` in one step; a crash leaves the old file or the new one.

    Raises MachineError, with ``remedy``, if the disk does not take it; nothing half written is
    left.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        settle(aside, path)
    except OSError as error:
        with suppress(OSError):  # on a read-only disk this fails, too, and would hide the cause
            aside.unlink(missing_ok=True)
        raise MachineError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def settle(aside: Path, final: Path) -> None:
    """Puts the file written at ``aside`` at ``final`` in one step; a power cut leaves the old file
    or the new one.
    """
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
