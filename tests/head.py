"""A real Ray head with token authentication, of this test alone: own ports, own folder, and nothing left of it."""

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

PATIENCE = 300  # seconds, on a busy machine


@dataclass(frozen=True)
class Head:
    """Where it listens, and the variables with which its token is known."""

    url: str
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside those that Ray gives its workers by default."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 5000, 31000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@contextlib.contextmanager
def running_head(cpus: int = 2) -> Iterator[Head]:
    """`ray start --head` on this machine, until the block is left; fails if one of its processes is left over."""
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
             "node-manager-port", "object-manager-port", "metrics-export-port", "runtime-env-agent-port",
             "ray-client-server-port")  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    binaries = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": f"{binaries}:{os.environ['PATH']}",  # a job says `python`, as a cluster's image would have it
    }
    environment.pop("PYTHONPATH", None)  # what runs is what the job brought along
    head = subprocess.Popen(
        [f"{binaries}/ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
         f"--temp-dir={folder}/ray", f"--num-cpus={cpus}", "--min-worker-port=0", "--max-worker-port=0",
         "--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())],
        env=environment, cwd=folder, stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(ports["dashboard-port"]):
            assert head.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the head did not start in time"
            time.sleep(0.5)
        own = {name: value for name, value in environment.items() if name.startswith("RAY_AUTH")}
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", own)
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        for process in (*family, *_of(folder)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
    assert head.poll() is not None
    assert not _of(folder), "processes are left over"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _of(folder: Path) -> list[psutil.Process]:
    """Processes that this head started, told by its folder on their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and (
                str(folder) in " ".join(process.cmdline())
                or process.environ().get("RAY_AUTH_TOKEN_PATH") == str(folder / "token")
            ):
                found.append(process)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]
