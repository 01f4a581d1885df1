"""Where a private Ray keeps its files: the path must leave room for the sockets in it."""

import os
import tempfile
from pathlib import Path

from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError

LONGEST_SOCKET = 107
"""Bytes in the path of a socket on Linux (unix(7), `sun_path`)."""
RAYS_OWN = "session_2026-11-28_10-21-38_269945_4194304/sockets/plasma_store"
"""The longest path that Ray puts below its folder, with the longest number of a process."""
PYTHONS_OWN = "pymp-abcdefgh/listener-abcdefgh"
"""What the processes of Ray's dashboard put below Python's temporary folder."""


def path() -> Path:
    """Returns Ray's folder: below RAY_TMPDIR, else TMPDIR, else /tmp."""
    above = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 # nosec B108: Ray's default
    return Path(above) / "ray"


def check(config: Config) -> Path:
    """Returns Ray's folder.

    Raises MachineError if a socket in it, or one of the dashboard's, would have no room.
    """
    folder = path()
    if _too_long(folder / RAYS_OWN):
        raise MachineError(
            f"{folder} is too long for the sockets of the private Ray; set RAY_TMPDIR to a short "
            "path, as /tmp"
        )
    temporary = Path(tempfile.gettempdir())
    if config.cluster.dashboard and _too_long(temporary / PYTHONS_OWN):
        raise MachineError(
            f"{temporary} is too long for the sockets of Ray's dashboard; set TMPDIR to a short "
            "path, or cluster.dashboard=false"
        )
    return folder


def _too_long(socket: Path) -> bool:
    return len(os.fsencode(socket)) > LONGEST_SOCKET
