"""Files that are whole or absent: written aside, synced, renamed."""

import os
from pathlib import Path


def settle(aside: Path, final: Path) -> None:
    """Puts the file written at ``aside`` at ``final`` in one step; a power cut leaves the old file or the new one."""
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
