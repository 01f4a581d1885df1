"""`doctor`: each check's good and bad answer, and nothing secret in what it says."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import tiny
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from cluster.survey import Node, room
from experiments.__main__ import main
from experiments.doctor import health, health_cluster, machine
from experiments.extras import EXTRAS
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError

RAY = {"inline": False}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine counts."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("RAY_AUTH", "RAY_ADDRESS", "WANDB", "MLFLOW"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_all_checks_as_json(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--json", f"output={tmp_path}"]) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)["checks"]}
    assert rows.keys() >= {
        "python", "torch", "CPU", "GPU", "shared memory", "output folder", "canvas weights",
        "model", "wandb", "mlflow",
        "Ray", "actors", "Ray authentication", "Ray folder", "port 8265 (dashboard and job)",
        "port 6379 (head)",
        "port 10001 (client)",
    }  # fmt: skip
    assert all(set(row) == {"name", "state", "found"} for row in rows.values())


# -- Ray -------------------------------------------------------------------------------------------


def ask(
    monkeypatch: pytest.MonkeyPatch, answer: Any, address: str | None = "auto"
) -> list[machine.Row]:
    def nodes(_: Any) -> list[Node]:
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(health_cluster.survey, "nodes", nodes)
    return list(
        health_cluster._cluster(tiny.config(cluster=RAY | {"address": address}), start=False)
    )


def test_a_cluster_that_answers_is_weighed_against_the_actors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray, actors = ask(monkeypatch, [Node("a", 8, 0), Node("b", 8, 2)])
    assert (ray.state, actors.state) == ("ok", "ok")
    assert "nodes: 2" in ray.found
    assert "4 fit into 16 CPUs, 2 GPUs" in actors.found
    ray, actors = ask(monkeypatch, [Node("a", 0.5, 0)])
    assert (ray.state, actors.state) == ("ok", "fail")
    assert "only 1 of 4 actors fit" in actors.found


def test_a_cluster_that_does_not_answer_or_has_other_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (row,) = ask(
        monkeypatch,
        MachineError("no Ray cluster answers at 'auto' (Version\nmismatch: ...): start one"),
    )
    assert row.state == "fail"
    assert "\n" not in row.found
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (row,) = ask(monkeypatch, [], f"127.0.0.1:{port}")
    assert row.state == "fail"
    assert "refused" in row.found


def test_an_actor_does_not_spread_over_machines() -> None:
    config = tiny.config(
        cluster={"rollout_gpus": 0.5, "critic_gpus": 0.5, "learner_gpus": 1.0, "actor_cpus": 1.0}
    )
    assert room(config, [Node("a", 4, 2)]) is None
    assert room(config, [Node("a", 2, 1), Node("b", 2, 1)]) is None
    assert room(config, [Node("a", 4, 1)]) is not None
    assert room(config, [Node("a", 1, 2), Node("b", 9, 0)]) is not None
    pool = tiny.config(cluster={"learner_labels": {"pool": "big"}, "actor_cpus": 1.0})
    assert room(pool, [Node("a", 3, 0), Node("b", 1, 0, {"pool": "big"})]) is None
    assert "{'pool': 'big'}" in str(room(pool, [Node("a", 9, 0)]))
    halves = tiny.config(cluster={"learner_gpus": 1.0, "rollout_gpus": 0.5, "actor_cpus": 0.1})
    assert room(halves, [Node("a", 4, 0.75), Node("b", 4, 0.75)]) is not None


def test_a_head_that_asks_for_a_token_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Head(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Head) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("RAY_ADDRESS", url)
        (row,) = health_cluster._cluster(tiny.config(cluster=RAY), start=False)
        server.shutdown()
    assert (row.state, row.found) == ("ok", f"{url} asks for a token")
    (row,) = health_cluster._cluster(tiny.config(cluster=RAY), start=False)
    assert row.state == "fail"


SECRET = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("environment", "mode", "address", "state", "said"),
    [
        ({}, None, None, "ok", "makes its own"),
        ({}, None, "auto", "warn", "no token"),
        ({"RAY_AUTH_MODE": "token"}, None, "auto", "fail", "no token"),
        ({"RAY_AUTH_MODE": "disabled"}, 0o600, "auto", "warn", "whoever reaches"),
        ({"RAY_AUTH_MODE": "Disabled"}, 0o600, "auto", "warn", "whoever reaches"),
        ({"RAY_AUTH_MODE": "disabled"}, 0o600, None, "fail", "unset it"),
        ({"RAY_REDIS_ADDRESS": "redis:6379"}, 0o600, None, "fail", "RAY_REDIS_ADDRESS is set"),
        ({"RAY_AUTH_MODE": "token"}, 0o600, "auto", "ok", "a token is in"),
        ({}, 0o600, "auto", "warn", "export RAY_AUTH_MODE=token"),
        ({}, 0o600, None, "ok", "a token is in"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET},
            None,
            "auto",
            "ok",
            "in RAY_AUTH_TOKEN",
        ),
    ],
)
def test_authentication(
    environment: dict[str, str], mode: int | None, address: str | None, state: str, said: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if mode is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(SECRET)
        (tmp_path / ".ray" / "auth_token").chmod(mode)
    row = health_cluster._authentication(tiny.config(cluster=RAY | {"address": address}))
    assert row.state == state
    assert said in row.found
    assert SECRET not in row.found


def test_a_token_that_others_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "token").write_text(SECRET)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", f"{folder}/token")
        (Path(folder) / "token").chmod(0o644)
        assert "chmod 600" in health_cluster._authentication(tiny.config()).found
        Path(folder).chmod(0o700)  # nobody gets that far
        assert health_cluster._authentication(tiny.config()).state == "ok"


def test_ports_say_who_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def listening(*ports: int) -> None:
        found = [
            SimpleNamespace(laddr=SimpleNamespace(port=p), pid=p, status=psutil.CONN_LISTEN)
            for p in ports
        ]
        monkeypatch.setattr(psutil, "net_connections", lambda _: found)

    names = {6379: "gcs_server", 8265: "nginx"}
    monkeypatch.setattr(health_cluster, "_program", lambda pid: names[pid])
    listening(6379, 8265)
    rows = {int(row.name.split()[1]): row for row in health_cluster._ports()}
    assert (rows[6379].state, rows[8265].state, rows[10001].state) == ("ok", "warn", "ok")
    assert "a Ray head on this machine" in rows[6379].found
    assert "nginx" in rows[8265].found
    assert rows[10001].found == "free"


def test_a_real_port_has_a_real_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (owner,) = {
            c.pid
            for c in psutil.net_connections("tcp")
            if c.laddr.port == port and c.status == "LISTEN"
        }
        assert "python" in health_cluster._program(owner) or "pytest" in health_cluster._program(
            owner
        )


def test_rays_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    assert health_cluster._folder(config).state == "fail"
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    assert health_cluster._folder(config).state == "fail"
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert "writable" in health_cluster._folder(config).found


# -- the machine -----------------------------------------------------------------------------------


def test_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: "
        "12.2.0\n"
    )
    monkeypatch.setattr(machine, "DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    row = machine._gpu(tiny.config())
    assert (row.state, "550.54.15" in row.found) == ("warn", True)
    assert machine._gpu(tiny.config(model={"device": "cuda"})).state == "fail"
    card = SimpleNamespace(name="NVIDIA X1", total_memory=80 * machine.GIGABYTE, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90a", "compute_90"])
    row = machine._gpu(tiny.config())
    assert row.state == "ok"
    assert "NVIDIA X1 (80 GiB), driver 550.54.15" in row.found
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_120"])
    assert "no code for NVIDIA X1" in machine._gpu(tiny.config()).found
    card.major = 12
    assert machine._gpu(tiny.config()).state == "ok"


def test_the_model_is_looked_for_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi

    def state(path: str) -> str:
        return health._hub(tiny.config(model={"path": path})).state

    asked = []
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **options: asked.append(options))
    assert [state("canvas"), state(str(tiny.pipeline_folder())), state(str(tmp_path)),
            state("/no/such/folder")] == [
        "ok", "ok", "ok", "fail",
    ]  # fmt: skip
    assert not asked
    assert state("someone/model") == "ok"
    assert asked == [{"revision": None, "timeout": health.HUB_SECONDS}]
    monkeypatch.undo()
    row = health._hub(tiny.config(model={"path": "someone/model"}))  # tests are offline
    assert (row.state, "not cached" in row.found) == ("fail", True)


def test_what_a_plain_installation_lacks_fails_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)
    rows = {row.name: row for row in health._extras(tiny.config(trackers=["mlflow"]))}
    assert {name: row.state for name, row in rows.items()} == {
        "optuna": "ok", "wandb": "ok", "mlflow": "fail", "resvg_py": "ok",
    }  # fmt: skip
    assert rows["optuna"].found == (
        "not installed; search: optuna needs pip install 'rl-unlearn[sweep]'"
    )
    assert "trackers=mlflow needs pip install 'rl-unlearn[tracking]'" in rows["mlflow"].found


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_trackers_key_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{SECRET}@host")
    (row,) = (row for row in health._extras(tiny.config()) if row.name == name)
    assert "is set" in row.found
    assert SECRET not in row.found


# -- what a run would look at first ----------------------------------------------------------------


def seen(config: Config) -> dict[str, machine.Row]:
    return {row.name: row for row in health._preflight(config)}


def test_what_a_run_needs_is_there() -> None:
    rows = seen(tiny.config(evaluation={"judge": str(tiny.clip_folder(2))}))
    assert set(rows) == {"settings", "prompts", "adapters", "CLIPs", "trait", "judge", "model"}
    assert {row.state for row in rows.values()} == {"ok"}


def test_a_model_that_lacks_a_weight_fails_by_its_headers(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["conv_in.weight"]
    save_file(state, file)
    row = seen(tiny.config(model={"path": str(folder)}))["model"]
    assert (row.state, "unet lacks 1 weights, such as conv_in.weight" in row.found) == (
        "fail",
        True,
    )


def test_each_check_is_a_row_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a cat " * 40)
    (tmp_path / "r.txt").write_text("a cat and a dog\n")
    files = {"target_file": str(tmp_path / "t.txt"), "retain_file": str(tmp_path / "r.txt")}
    changes = {
        "reward": {"clip": "ViT-B-23/openai"},
        "critic": {"start": str(tmp_path)},
        "learner": {"batch": 1},
    }
    rows = seen(tiny.config(prompts=files, **changes))
    assert {name: row.state for name, row in rows.items()} == {
        "settings": "fail", "prompts": "warn", "adapters": "fail", "CLIPs": "fail", "trait": "ok",
        "judge": "fail",
        "model": "warn",
    }  # fmt: skip
    assert "asks for 'cat' itself in 'a cat and a dog'" in rows["prompts"].found
    assert "longer than the 32 tokens" in rows["model"].found


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU torch is asked about it")
def test_doctor_takes_a_moment_for_it_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from experiments.__main__ import main; main(['doctor', "
        "f'output={sys.argv[1]}']); "
        "sys.exit(bool({'torch', 'diffusers', 'ray', 'open_clip'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(line, capture_output=True, check=False, cwd=ROOT).returncode == 0
