"""Which Ray a run means, and whether it answers.

Found out in seconds, where Ray itself goes on trying for minutes.
"""

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from cluster import private, proxy, ray_folder
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError

SECONDS = 10
LOCAL, AUTO = "local", "auto"
"""A private Ray of the run's own; the one that runs around this machine."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client, and so Ray's gRPC, says first: its magic word and empty settings."""
_SETTINGS = 4


@dataclass(frozen=True)
class Address:
    """Where a Ray is, and who says so."""

    text: str
    """LOCAL, AUTO, HOST:PORT, ray://HOST:PORT, or the http(s) address where jobs are submitted."""
    source: str
    """The setting or variable that names it."""

    @property
    def is_local(self) -> bool:
        """Whether it is a private Ray of the run's own."""
        return self.text == LOCAL

    @property
    def is_head(self) -> bool:
        """Whether it is a job server and not the cluster itself."""
        return self.text.startswith(("http://", "https://"))


def meant(config: Config) -> Address:
    """Returns the address that counts.

    That is `cluster.address`, else RAY_ADDRESS, as jobs have it, else a private one.
    """
    named, variable = config.cluster.address, os.environ.get("RAY_ADDRESS")
    if variable and named in (None, "", AUTO):  # as Ray itself reads `auto`
        return Address(variable, "RAY_ADDRESS")
    return Address(named or LOCAL, "cluster.address")


def check(config: Config) -> Address:
    """Returns the address that counts if it can be used.

    Raises ConfigError unless it is one, MachineError unless a Ray answers there or a private one
    may be started. What Ray finds by itself passes.
    """
    address = meant(config)
    if address.is_local:
        private.check_environment()
        ray_folder.check(config)
    if address.text in (LOCAL, AUTO):
        return address
    if address.is_head:
        raise ConfigError(
            f"{address.source}={address.text}: jobs are submitted there; use --submit "
            f"{address.text}, or name the cluster itself as HOST:PORT"
        )
    try:
        parts = urlsplit(address.text if "://" in address.text else f"//{address.text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigError(
            f"{address.source}={address.text!r}: must be HOST:PORT, ray://HOST:PORT or auto"
        )
    answers(address, host, port)
    return address


def answers(address: Address, host: str, port: int) -> None:
    """Raises MachineError unless a gRPC server, as Ray's are, greets there within SECONDS."""
    problem = f"no Ray cluster answers at {address.text}"
    remedy = f"start one, correct {address.source}, or use --inline"
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as line:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return  # who listens is asked by Ray itself, with its certificates
            line.sendall(_PREFACE)
            greeting = line.recv(len(_PREFACE))
    except TimeoutError as error:
        raise MachineError(f"{problem} (nothing in {SECONDS} seconds): {remedy}") from error
    except OSError as error:
        raise MachineError(f"{problem} ({error.strerror or str(error)}): {remedy}") from error
    if greeting[3:4] != bytes((_SETTINGS,)):
        raise MachineError(f"{problem} (something else listens there): {remedy}")


def check_head(url: str) -> None:
    """Raises ConfigError unless this is a plain http(s)://HOST:PORT.

    Raises MachineError unless it accepts a connection.
    """
    wish = (
        f"--submit {url!r}: must be http://HOST:PORT or https://HOST:PORT, where the head's "
        "dashboard listens"
    )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(wish) from error
    if "@" in parts.netloc:
        raise ConfigError(
            "--submit: no user or password in the address; Ray reads its token from "
            "RAY_AUTH_TOKEN_PATH"
        )
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not port
        or parts.path.strip("/")
        or parts.query
    ):
        raise ConfigError(wish)
    if proxy.of(url) is not None:
        return  # it is the proxy that is connected to
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise MachineError(
            f"no Ray head answers at {url} ({error.strerror or str(error)}): start one, or "
            "correct --submit"
        ) from error
