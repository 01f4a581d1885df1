"""The checks of `doctor` that have to do with Ray: ports, authentication, its folder, who answers,
what fits.
"""

import os
import stat
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from cluster import address, placement, private, proxy, ray_folder, survey
from experiments.doctor.machine import Row, cards, check_folder
from experiments.runs.origin import cores
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files.json_file import parse_object

PORTS = {8265: "dashboard and job", 6379: "head", 10001: "client"}
"""Those that a head takes by default."""
_LONGEST_REPLY = 100_000


def check(config: Config, start: bool) -> list[Row]:
    """Returns a row of each check; none of them changes the machine.

    With `start` Ray is started, or the cluster joined, and left again.
    """
    if find_spec("ray") is None:
        return [Row("Ray", "fail", "cannot be imported; install the project's dependencies")]
    return [*_cluster(config, start), _authentication(config), _folder(config), *_ports()]


def _cluster(config: Config, start: bool) -> Iterator[Row]:
    where = address.meant(config)
    if where.is_head:
        yield _head(where.text)
        return
    if not start and where.is_local:
        yield Row("Ray", "ok", f"{metadata.version('ray')} installed; --ray tries a start")
        yield _actors(config, [_this_machine()])
        return
    try:
        address.check(config)
        nodes = survey.nodes(config)
    except Exception as error:
        yield Row("Ray", "fail", " ".join(str(error).split())[:300])
        return
    state = "starts" if where.is_local else f"{where.text} answers, with the same Ray and Python"
    yield Row("Ray", "ok", f"{metadata.version('ray')} {state}; nodes: {len(nodes)}")
    yield _actors(config, nodes)


def _head(url: str) -> Row:
    """Returns whether a head answers where jobs are submitted; the job then finds the cluster."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"{url.rstrip('/')}/api/version", timeout=address.SECONDS) as answer:  # noqa: S310 # nosec B310: http(s)
            version = parse_object(answer.read(_LONGEST_REPLY), url).get("ray_version")
    except HTTPError as error:
        if error.code in (401, 403):
            return Row("Ray", "ok", f"{url} asks for a token")
        return Row("Ray", "warn", f"{url} says {error.code}{proxy.remedy(url)}")
    except DataError:
        version = None
    except (OSError, HTTPException) as error:
        cause = " ".join(str(getattr(error, "reason", error)).split())
        return Row("Ray", "fail", f"no head answers at {url} ({cause}){proxy.remedy(url)}")
    if not isinstance(version, str):
        return Row("Ray", "fail", f"{url} does not answer as a Ray head does{proxy.remedy(url)}")
    return Row("Ray", "ok", f"a head answers at {url}")


def _this_machine() -> survey.Node:
    return survey.Node("this machine", max(cores(), 2), cards())


def _actors(config: Config, nodes: list[survey.Node]) -> Row:
    if config.cluster.inline:
        return Row("actors", "ok", "all in this process")
    missing = survey.room(config, nodes)
    has = f"{sum(node.cpus for node in nodes):g} CPUs, {sum(node.gpus for node in nodes):g} GPUs"
    if missing:
        return Row(
            "actors",
            "fail",
            f"{missing} ({has} in all); lower rollout.actors, cluster.actor_cpus or *_gpus",
        )
    return Row("actors", "ok", f"{len(placement.places(config).all)} fit into {has}")


def _authentication(config: Config) -> Row:
    """Returns whether a token is asked for and there; what it is stays unread."""
    name, mode = "Ray authentication", os.environ.get("RAY_AUTH_MODE", "").lower()
    private_one = address.meant(config).is_local
    if private_one and not config.cluster.inline:
        try:
            private.check_environment()
        except MachineError as error:
            return Row(name, "fail", str(error))
    if mode == "disabled":
        return Row(
            name,
            "warn",
            "RAY_AUTH_MODE=disabled: whoever reaches a port of the cluster can run code on it",
        )
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN"):
        place = "a token is in RAY_AUTH_TOKEN"
    elif file.is_file() and file.stat().st_size:
        if _open_to_others(file):
            return Row(name, "warn", f"others may read the token in {file}: chmod 600 it")
        place = f"a token is in {file}"
    elif private_one:
        return Row(name, "ok", "no token yet; a private local cluster makes its own")
    else:
        return Row(
            name,
            "fail" if mode == "token" else "warn",
            f"no token: ray get-auth-token --generate, or copy {file}",
        )
    if not private_one and mode != "token":
        return Row(
            name,
            "warn",
            f"{place}, but it is not asked for: export RAY_AUTH_MODE=token on every machine",
        )
    return Row(name, "ok", place)


def _open_to_others(file: Path) -> bool:
    above = (folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents)
    return bool(file.stat().st_mode & stat.S_IROTH) and all(above)


def _folder(config: Config) -> Row:
    name = "Ray folder"
    try:
        return check_folder(name, ray_folder.check(config))
    except MachineError as error:
        return Row(name, "fail", str(error))


def _ports() -> Iterator[Row]:
    import psutil

    try:
        listening = {
            c.laddr.port: c.pid
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }
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
    """Returns the name of a process, and its program if it is a script's."""
    import psutil

    if pid is None:
        return "another user's program"
    try:
        process = psutil.Process(pid)
        script = next((part for part in process.cmdline()[1:2] if part.endswith(".py")), "")
        return f"{process.name()} {'ray ' * ('/ray/' in script)}{Path(script).name}".strip()
    except psutil.Error:
        return "an unknown program"
