"""The checks of `doctor` that have to do with Ray: ports, authentication, its folder, who answers, what fits."""

import os
import stat
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from cluster import placement, survey
from experiments import address
from experiments.health import Row, check_folder, cores
from rl_unlearn.config import Config

PORTS = {8265: "dashboard and job", 6379: "head", 10001: "client"}
"""Those that a head takes by default."""
_LONGEST_FOLDER = 60
"""Characters; Ray puts its session and socket names behind them, and a socket's path ends at 107."""


def check(config: Config, start: bool) -> list[Row]:
    """All rows; with `start` Ray is started, or the cluster joined, and left again. None changes the machine."""
    if find_spec("ray") is None:
        return [Row("Ray", "fail", "cannot be imported; install the project's dependencies")]
    return [*_cluster(config, start), _authentication(config), _folder(), *_ports()]


def _address(config: Config) -> str | None:
    return config.cluster.address or os.environ.get("RAY_ADDRESS")


def _cluster(config: Config, start: bool) -> Iterator[Row]:
    where = _address(config)
    if where and where.startswith(("http://", "https://")):
        yield _head(where)
        return
    if not start and where is None:
        yield Row("Ray", "ok", f"{metadata.version('ray')} installed; --ray tries a start")
        yield _actors(config, [_this_machine()])
        return
    try:
        address.check(where)
        there = survey.nodes(config)
    except Exception as error:
        yield Row("Ray", "fail", " ".join(str(error).split())[:300])
        return
    said = "starts" if where is None else f"{where} answers, with the same Ray and Python"
    yield Row("Ray", "ok", f"{metadata.version('ray')} {said}; nodes: {len(there)}")
    yield _actors(config, there)


def _head(url: str) -> Row:
    """A head where jobs are submitted; the job itself then finds the cluster."""
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"{url.rstrip('/')}/api/version", timeout=address.SECONDS):  # noqa: S310 # nosec B310: http(s)
            return Row("Ray", "ok", f"a head answers at {url}")
    except HTTPError as error:
        asks = error.code in (401, 403)
        return Row("Ray", "ok" if asks else "warn", f"{url} " + ("asks for a token" if asks else f"says {error.code}"))
    except (URLError, OSError) as error:
        return Row("Ray", "fail", f"no head answers at {url} ({getattr(error, 'reason', error)})")


def _this_machine() -> survey.Node:
    import torch

    return survey.Node("this machine", max(cores(), 2), torch.cuda.device_count())


def _actors(config: Config, there: list[survey.Node]) -> Row:
    if config.cluster.inline:
        return Row("actors", "ok", "all in this process")
    missing = survey.room(config, there)
    has = f"{sum(node.cpus for node in there):g} CPUs, {sum(node.gpus for node in there):g} GPUs"
    if missing:
        return Row("actors", "fail", f"{missing} ({has} in all); lower rollout.actors, cluster.actor_cpus or *_gpus")
    return Row("actors", "ok", f"{len(placement.places(config).all)} fit into {has}")


def _authentication(config: Config) -> Row:
    """Whether a token is asked for and there; what it is stays unread."""
    name, mode = "Ray authentication", os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        return Row(name, "warn", "RAY_AUTH_MODE=disabled: whoever reaches a port of the cluster can run code on it")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN"):
        found = "a token is in RAY_AUTH_TOKEN"
    elif file.is_file() and file.stat().st_size:
        if _open_to_others(file):
            return Row(name, "warn", f"others may read the token in {file}: chmod 600 it")
        found = f"a token is in {file}"
    elif _address(config) is None:
        return Row(name, "ok", "no token yet; a private local cluster makes its own")
    else:
        return Row(
            name, "fail" if mode == "token" else "warn", f"no token: ray get-auth-token --generate, or copy {file}"
        )
    if _address(config) is not None and mode != "token":
        return Row(name, "warn", f"{found}, but it is not asked for: export RAY_AUTH_MODE=token on every machine")
    return Row(name, "ok", found)


def _open_to_others(file: Path) -> bool:
    above = (folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents)
    return bool(file.stat().st_mode & stat.S_IROTH) and all(above)


def _folder() -> Row:
    path = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray"  # noqa: S108 # nosec B108: Ray's own default
    if len(str(path)) > _LONGEST_FOLDER:
        return Row("Ray folder", "fail", f"{path} is too long for Ray's sockets; set RAY_TMPDIR to a short path")
    return check_folder("Ray folder", path)


def _ports() -> Iterator[Row]:
    import psutil

    try:
        listening = {c.laddr.port: c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.AccessDenied:
        yield Row("ports", "ok", "not looked at: not permitted")
        return
    for port, use in PORTS.items():
        name = f"port {port} ({use})"
        if port not in listening:
            yield Row(name, "ok", "free")
            continue
        who = _program(listening[port])
        if "ray" in who or "gcs_server" in who:
            yield Row(name, "ok", f"in use by a Ray head on this machine ({who})")
        else:
            yield Row(name, "warn", f"in use by {who}: a Ray head started here needs another one")


def _program(pid: int | None) -> str:
    """Name of a process, and its program if it is a script's."""
    import psutil

    if pid is None:
        return "another user's program"
    try:
        process = psutil.Process(pid)
        script = next((part for part in process.cmdline()[1:2] if part.endswith(".py")), "")
        return f"{process.name()} {'ray ' * ('/ray/' in script)}{Path(script).name}".strip()
    except psutil.Error:
        return "an unknown program"
