"""Whether somebody listens at a Ray address, found out in seconds: Ray itself goes on trying for minutes."""

import socket
from urllib.parse import urlsplit

from rl_unlearn.errors import ConfigError, MachineError

SECONDS = 10


def check(address: str | None) -> None:
    """Pass for no address and for names Ray resolves by itself; else HOST:PORT must accept a connection."""
    if address is None or address in ("auto", "local"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigError(f"cluster.address={address!r}: must be HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise MachineError(
            f"no Ray cluster answers at {address} ({reason}): start one, correct it, or use --inline"
        ) from error
