"""The private Ray: refuses to be opened, and whole runs on it: where it listens, how urgent it is,
what is imported.
"""

import ipaddress
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pytest
import tiny
from conftest import ROOT

from cluster import connection, private
from experiments import settings
from experiments.__main__ import main
from rl_unlearn.errors import MachineError

PATIENCE = 600  # seconds, on a busy machine
CONSOLE = "import sys; from experiments.__main__ import main; sys.exit(main())"
"""What the installed command holds."""
RAY = {"inline": False, "actor_cpus": 0.1}


@pytest.mark.parametrize("mode", ["disabled", "Disabled", "", "k8s"])
def test_a_private_ray_without_token_is_refused(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with (
        pytest.raises(MachineError, match=r"RAY_AUTH_MODE=.*unset it"),
        connection.ray_cluster(tiny.config(cluster=RAY)),
    ):
        raise AssertionError("it started")


def test_that_is_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["train", "concept=cat", f"output={tmp_path / 'out'}"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "variable", ["RAY_REDIS_ADDRESS", "RAY_gcs_storage", "RAY_JOB_CONFIG_JSON_ENV_VAR"]
)
def test_a_private_ray_keeps_its_state_to_itself(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "redis")
    with pytest.raises(MachineError, match=f"{variable} is set"):
        private.check_environment()


def test_a_token_may_be_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
    private.check_environment()


def test_the_token_is_for_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    private._make_token()
    token = file.read_text()
    assert (len(token), file.stat().st_mode & 0o777) == (64, 0o600)
    private._make_token()
    assert file.read_text() == token, "other runs use it"
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    file.unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    private._make_token()
    assert not file.exists()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with pytest.raises(MachineError, match="cannot write /proc/nowhere"):
        private._make_token()


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Name of the process, and address, of each socket that it listens at."""
    return {
        (process.name(), socket.laddr.ip)
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dashboard", "ranks", "command"),
    [
        pytest.param(False, 2, ["-c", CONSOLE], marks=pytest.mark.long),
        pytest.param(True, 1, ["-m", "experiments"], marks=pytest.mark.long),
    ],
    ids=["console", "module and dashboard"],
)
def test_a_run_in_a_users_folder(
    tmp_path: Path, dashboard: bool, ranks: int, command: list[str]
) -> None:
    """A whole run, started in a folder that has packages with the same names; its processes are
    looked at meanwhile.
    """
    for name in ("actors", "learner", "cluster", "rl_unlearn"):
        (tmp_path / "user" / name).mkdir(parents=True)
        (tmp_path / "user" / name / "__init__.py").write_text(
            f"raise RuntimeError('the {name} of somebody else')\n"
        )
    config = tiny.config(
        concept="cat", output=str(tmp_path / "out"), name="r", tensorboard=False,
        learner={"ranks": ranks},
        cluster=RAY | {"dashboard": dashboard},
        loop={"rounds": 2, "timeout": 600.0, "heartbeat": 300.0},
    )  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(settings.dump(config))
    temporary = Path(mkdtemp(prefix="tests-"))  # below /tmp, where sockets have room
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "RAY_TMPDIR": "/tmp",
    }
    run = subprocess.Popen(
        [sys.executable, *command, "train", "--config", str(tmp_path / "tiny.yaml"),
         "--no-evaluate"],
        cwd=tmp_path / "user", env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    driver, sockets, niceness = psutil.Process(run.pid), set[tuple[str, str]](), dict[str, int]()
    until = time.monotonic() + PATIENCE
    while run.poll() is None and time.monotonic() < until:
        for process in [driver, *driver.children(recursive=True)]:
            try:
                sockets |= listening(process)
                niceness[process.name()] = process.nice()
            except psutil.Error:
                continue  # it has ended
        time.sleep(0.2)
    run.kill()
    said = run.communicate()[1]
    assert run.returncode == 0, said
    servers = {name for name, _ in sockets}
    assert servers >= {"gcs_server", "raylet"}, "they were looked at"
    assert any("Learner" in name for name in servers), servers
    assert [found for found in sockets if not is_loopback(found[1])] == []
    actors = {name: nice for name, nice in niceness.items() if name.startswith("ray::")}
    assert len(actors) >= 4, actors
    assert set(actors.values()) == {os.nice(0)}
    assert not list(temporary.glob("*wandb*"))
    shutil.rmtree(temporary)
