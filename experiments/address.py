"""Whether somebody listens at a Ray address or head, found out in seconds: Ray itself goes on trying for minutes."""

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
    _reach(host, port, f"no Ray cluster answers at {address}", "start one, correct it, or use --inline")


def check_head(url: str) -> None:
    """ConfigError unless this is a plain http(s)://HOST:PORT, MachineError unless it accepts a connection."""
    wish = f"--submit {url!r}: must be http://HOST:PORT or https://HOST:PORT, where the head's dashboard listens"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(wish) from error
    if "@" in parts.netloc:
        raise ConfigError("--submit: no user or password in the address; Ray reads its token from RAY_AUTH_TOKEN_PATH")
    if parts.scheme not in ("http", "https") or not host or not port or parts.path.strip("/") or parts.query:
        raise ConfigError(wish)
    _reach(host, port, f"no Ray head answers at {url}", "start one, or correct --submit")


def _reach(host: str, port: int, problem: str, remedy: str) -> None:
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise MachineError(f"{problem} ({error.strerror or str(error)}): {remedy}") from error
