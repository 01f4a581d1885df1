"""A real Ray head with token authentication, of this test alone: own ports, own folder, and nothing
left of it.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE = 600  # seconds, on a busy machine
TRIES = 5  # Ray gives a node 30 seconds to start, which a busy machine may not have
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "node-manager-port",
         "object-manager-port",
         "metrics-export-port", "runtime-env-agent-port")  # fmt: skip


@dataclass(frozen=True)
class Head:
    """Where it listens, and the variables with which its token is known."""

    url: str
    environment: dict[str, str]
    address: str = ""
    """Where nodes join it."""

    def join(self, cpus: int) -> subprocess.Popen[bytes]:
        """One more node on this machine; ends with the head at the latest."""
        return _started(
            [f"--address={self.address}"],
            PORTS,
            cpus,
            Path(self.environment["RAY_AUTH_TOKEN_PATH"]),
        )[0]


@contextlib.contextmanager
def running_head(cpus: int = 2) -> Iterator[Head]:
    """`ray start --head` on this machine, until the block is left; fails if one of its processes is
    left over.
    """
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    own = {name: value for name, value in _variables(token).items() if name.startswith("RAY_AUTH")}
    head = None
    try:
        words = ["--head", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray"]
        head, ports = _started(words, HEAD_PORTS + PORTS, cpus, token)
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", own, f"127.0.0.1:{ports['port']}")
    finally:
        if head is not None:
            head.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(30)
        _end(folder)
        if head is not None:
            head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
    assert not _of(folder), "processes are left over"


def _variables(token: Path) -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    } | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # A job says `python`, as a cluster's image would have it.
        "PATH": f"{binaries}:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)  # what runs is what the job brought along
    return environment


def _started(
    words: list[str], names: tuple[str, ...], cpus: int, token: Path
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """A node that is up, and its ports."""
    log, environment = token.parent / f"log-{secrets.token_hex(4)}", _variables(token)
    for _ in range(TRIES):
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        command = [
            f"{Path(sys.executable).parent}/ray", "start", "--block", "--node-ip-address=127.0.0.1",
            *words,
            f"--num-cpus={cpus}", "--min-worker-port=0", "--max-worker-port=0",
            "--object-store-memory=100000000",
            *(f"--{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        with log.open("w") as output:
            node = subprocess.Popen(
                command, env=environment, cwd=token.parent, stdout=output, stderr=subprocess.STDOUT
            )
        if _is_up(node, log, ports.get("dashboard-port")):
            return node, ports
        node.kill()
        node.wait(30)
        if "--head" in words:
            _end(token.parent)
    raise AssertionError(log.read_text())


def _is_up(node: subprocess.Popen[bytes], log: Path, port: int | None) -> bool:
    deadline = time.monotonic() + PATIENCE
    while "Ray runtime started" not in log.read_text() or not (port is None or _answers(port)):
        if node.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside those that Ray gives its workers by default."""
    found: list[int] = []
    for port in range(21000 + secrets.randbelow(9000), 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(folder: Path) -> None:
    for _ in range(5):  # one that is killed may have just started another
        left = _of(folder)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=30)


def _of(folder: Path) -> list[psutil.Process]:
    """Processes that this head started: they know its token."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            known = process.environ().get("RAY_AUTH_TOKEN_PATH") == str(folder / "token")
            if known and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
