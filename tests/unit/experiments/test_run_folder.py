"""A run on the tiny world through the real command: what lies in its folder, however the run
ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT

import experiments.run
from experiments import settings
from experiments.__main__ import main
from experiments.files import to_json, write_bytes
from experiments.runs import run_folder
from learner import events
from learner.events import Emit
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError, TrainingError

FILES = {
    "adapter", "checkpoints", "config.yaml", "critic.safetensors", "curves.png", "evaluation.json",
    "ledger.jsonl",
    "metrics.jsonl", "report.html", "run_state.json",
    "samples", "samples.png", "tensorboard",
}  # fmt: skip
TRAIN = (sys.executable, "-m", "experiments", "train", "--config")
PATIENCE = 300  # seconds, on a busy machine
SIDE = {"ua", "ira", "cra", "coherence"}


def tiny_file(folder: Path, **overrides: Any) -> str:
    config = tiny.config(
        evaluation={"judge": str(tiny.clip_folder(2))},
        output=str(folder / "out"),
        name="r",
        **overrides,
    )
    file = folder / "tiny.yaml"
    file.write_text(settings.dump(config))
    return str(file)


def state_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run_state.json").read_text())
    return content


def test_a_run_from_start_to_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tiny_file(tmp_path)
    run = tmp_path / "out" / "r"
    assert main(["train", "--config", config, "--json"]) == 0
    said = capfd.readouterr()
    outcome = json.loads(said.out)
    assert outcome["report"] == str(run / "report.html")
    assert "round 1/3" in said.err
    assert "coherence" in said.err.lower()

    assert {path.name for path in run.iterdir()} == FILES
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation) == {
        "before", "after", "images_used", "updates", "wall_seconds", "seed", "concept", "counts",
        "protocol", "models", "schema_version",
    }  # fmt: skip
    assert [row["name"] for row in evaluation["models"]] == ["untouched", "r"]
    assert {key: evaluation["models"][1][key]["value"] for key in SIDE} == evaluation["after"]
    assert set(evaluation["before"]) == set(evaluation["after"]) == SIDE
    assert all(
        0 <= value <= 100 for side in ("before", "after") for value in evaluation[side].values()
    )
    assert evaluation["counts"]["target_images"] == 2 * len(tiny.STYLES)

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"phase", "round", "selection"} <= {row["event"] for row in rows}
    assert {key: rows[-1][key] for key in SIDE} == evaluation["after"], (
        "trackers hear the judged figures last"
    )
    assert [row["round"] for row in rows if row["event"] == "round"] == [1, 2, 3]
    assert all(row["elapsed"] >= 0 for row in rows)
    state = state_of(run)
    assert (state["state"], state["reason"]) == ("finished", None)
    assert state["argv"][:3] == ["python", "-m", "experiments"]
    assert "torch" in state["packages"]
    assert (run / "adapter" / "README.md").read_text().startswith("---")
    assert settings.load([str(run / "config.yaml")], environ={}) == settings.load(
        [config], environ={}
    )
    assert list((run / "tensorboard").iterdir())
    for picture in ("samples.png", "curves.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")

    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["after"] == evaluation["after"]
    evaluation["models"][1]["cost"]["training_seconds"] = evaluation["wall_seconds"]
    assert json.loads((run / "evaluation.json").read_text()) == evaluation

    assert main(["train", "--config", config]) == 2
    assert state_of(run) == state
    assert (
        main(
            [
                "train",
                "--config",
                config,
                "--overwrite",
                "--no-evaluate",
                "tensorboard=false",
                "concept=dog",
            ]
        )
        == 0
    )
    assert {path.name for path in run.iterdir()} == FILES - {
        "evaluation.json",
        "samples",
        "samples.png",
        "tensorboard",
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_fails_before_it_has_begun_neither_replaces_a_run_nor_takes_its_name(
    tmp_path: Path,
) -> None:
    train = ["train", "--config", tiny_file(tmp_path, cluster={"inline": True}), "--no-evaluate"]
    run = tmp_path / "out" / "r"
    wrong = "reward.images={nobody: 1.0}"  # only the actors know the names that are registered
    assert main([*train, wrong]) == 2
    assert (state_of(run)["state"], state_of(run)["begun"]) == ("failed", False)
    assert main([*train, "--resume", "auto", "loop.rounds=2"]) == 0
    before = contents(run)
    assert main([*train, "--overwrite", wrong]) == 2
    assert main([*train, "--overwrite", f"critic.start={tmp_path}"]) == 5
    assert contents(run) == before
    assert main([*train, "loop.rounds=1"]) == 2, "there is a run"

    aside = run.with_name(".r.replaced")
    run.rename(aside)  # as a run leaves it that is killed before it has begun
    run.mkdir()
    (run / "config.yaml").write_text("seed: 7\n")
    (run / "run_state.json").write_text('{"begun": false}')
    assert main([*train, "loop.rounds=1"]) == 2, "what it replaces is still there"
    assert contents(run) == before
    (run / ".replaced").mkdir()
    assert main([*train, "--overwrite", wrong]) == 2
    assert contents(run) == before
    run.rename(aside)
    assert main(["resume", str(run), "--no-evaluate"]) == 0, "it is there again, and finished"
    (run / ".replaced").rmdir()
    assert contents(run) == before
    assert main([*train, "--overwrite", "loop.rounds=1"]) == 0
    assert not aside.exists()
    assert contents(run) != before


def test_a_finished_run_without_checkpoints_is_not_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_file(
        tmp_path, cluster={"inline": True}, loop={"rounds": 1, "checkpoint_every": 0}
    )
    run = tmp_path / "out" / "r"
    assert main(["train", "--config", config, "--no-evaluate"]) == 0
    before = contents(run)
    assert main(["resume", str(run), "loop.rounds=2"]) == 2
    assert "made no checkpoint" in capsys.readouterr().err
    assert contents(run) == before
    written = (run / "config.yaml").read_text()
    for changed in ("", written.replace("concept: cat", "concept: dog")):
        (run / "config.yaml").write_text(changed)
        assert main(["resume", str(run)]) == 5
        assert "config.yaml is not as the run left it" in capsys.readouterr().err
    (run / "config.yaml").write_text(written)
    (run / "run_state.json").write_text("{")
    assert main(["resume", str(run)]) == 5
    assert "run_state.json holds no JSON object" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a driver with a GPU may use it")
def test_the_driver_of_a_cluster_needs_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(config: Config, *_: Any, **__: Any) -> None:
        raise TrainingError(f"reached with {config.model.device}")

    monkeypatch.setattr(experiments.run, "train", trained)
    train = ["train", "--config", tiny_file(tmp_path), "model.device=cuda"]
    assert main(train) == 3
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    monkeypatch.setattr("cluster.address.check", lambda _: None)
    assert main(train) == 4
    assert state_of(tmp_path / "out" / "r")["reason"] == "reached with cuda"


def start(
    tmp_path: Path, *argv: str, until_it_says: str = '"round"', session: bool = False
) -> subprocess.Popen[str]:
    """A long run in its own process, once it is training."""
    config = tiny_file(tmp_path, loop={"rounds": 5000})
    process = subprocess.Popen(
        [*TRAIN, config, "--no-evaluate", *argv],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=session,
    )  # fmt: skip
    metrics = tmp_path / "out" / "r" / "metrics.jsonl"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if metrics.exists() and until_it_says in metrics.read_text():
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[1])


def stops(process: subprocess.Popen[str], number: signal.Signals, code: int, run: Path) -> None:
    process.send_signal(number)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    assert said.splitlines()[-1] == "stopped"
    state = state_of(run)
    assert (state["state"], state["reason"]) == ("stopped", number.name)


@pytest.mark.slow
def test_sigint_stops_the_run_in_order(tmp_path: Path) -> None:
    stops(start(tmp_path), signal.SIGINT, 130, tmp_path / "out" / "r")


@pytest.mark.faults
@pytest.mark.slow
def test_a_second_run_of_the_name_waits_and_sigterm_stops_the_first(tmp_path: Path) -> None:
    process = start(tmp_path)
    second = subprocess.run(
        [*TRAIN, str(tmp_path / "tiny.yaml"), "--overwrite", "--no-evaluate"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert second.returncode == 2
    assert "another run" in second.stderr
    assert state_of(tmp_path / "out" / "r")["pid"] == process.pid
    stops(process, signal.SIGTERM, 143, tmp_path / "out" / "r")


@pytest.mark.faults
@pytest.mark.slow
def test_a_signal_to_the_whole_group_stops_the_run_though_it_ends_ray_too(tmp_path: Path) -> None:
    process = start(tmp_path, "cluster.inline=false", session=True)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    state = state_of(tmp_path / "out" / "r")
    assert (state["state"], state["reason"]) == ("stopped", "SIGTERM")


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_that_waits_for_room_is_stopped_in_order(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "cluster.inline=false",
        "cluster.rollout_gpus=99",
        until_it_says="waiting for room",
    )
    time.sleep(2)
    stops(process, signal.SIGTERM, 143, tmp_path / "out" / "r")


def test_a_second_signal_ends_it_at_once() -> None:
    code = (
        "import time; from experiments import signals; signals.install()\n"
        "try: print('up', flush=True); time.sleep(600)\n"
        "except BaseException as stop: print(type(stop).__name__, flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "Stopped\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143


# -- ways to end, around a training that is told how -----------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "state", "reason"),
    [
        (
            TrainingError("reward is not finite: lower learner.lr"),
            4,
            "failed",
            "reward is not finite: lower learner.lr",
        ),
        (ZeroDivisionError("x"), 4, "failed", "training failed: ZeroDivisionError: x"),
        (MachineError("the cluster is full"), 3, "failed", "the cluster is full"),
        (KeyboardInterrupt(), 130, "stopped", "SIGINT"),
    ],
)
def test_failures_are_on_record(
    error: BaseException, code: int, state: str, reason: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(config: Config, emit: Emit, spill: Path | None, **checkpoints: Any) -> None:
        emit(events.Phase(phase="starting actors"))
        emit(tiny.round_event(reward=float("nan"), ess=[0.5, 1.0]))
        raise error

    monkeypatch.setattr(experiments.run, "train", fail)
    assert main(["train", "--config", tiny_file(tmp_path), "--no-evaluate"]) == code
    assert "Traceback" not in capsys.readouterr().err
    found = state_of(tmp_path / "out" / "r")
    assert found["state"] == state
    assert found["reason"].startswith(reason)
    assert found["finished"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "r" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows[1]["reward"] is None
    assert ("traceback" in found) == isinstance(error, ZeroDivisionError)


class Silent:
    """A progress that keeps the names of what it is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def show(self, event: events.Event) -> None:
        self.shown.append(event.name)


UPDATE = events.Update(
    update=1, round=1, version_in=0, version_out=1, policy_lag_max=0, newest_round=1,
    drawn_by={1: 0}, trajectories=8, batch="b", weights="w",
)  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("name", "event"), [("metrics.jsonl", tiny.round_event()), ("ledger.jsonl", UPDATE)]
)
def test_a_record_that_the_disk_does_not_take_is_one_line(
    tmp_path: Path, name: str, event: events.Event
) -> None:
    from experiments.runs import recorder

    (tmp_path / name).symlink_to("/dev/full")

    def record() -> None:
        with recorder.Recorder(run_folder.RunFolder(tmp_path), Silent()) as emit:
            emit(event)

    with pytest.raises(
        MachineError, match=f"cannot write .*{name}: No space left on device; free space and resume"
    ):
        record()


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_bytes(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_json_is_strict() -> None:
    import numpy as np
    import torch

    content = {
        "a": float("inf"),
        "b": np.float32(0.5),
        "c": torch.ones(2),
        "d": (1, None, True),
        "e": Path("x"),
    }
    assert json.loads(to_json(content)) == {
        "a": None,
        "b": 0.5,
        "c": [1.0, 1.0],
        "d": [1, None, True],
        "e": "x",
    }


def test_reserving_changes_nothing(tmp_path: Path) -> None:
    config = tiny.config(output=str(tmp_path / "a" / "b"), name="x")
    run_folder.reserve(config, overwrite=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").touch()
    with pytest.raises(ConfigError, match="is a file"):
        run_folder.reserve(config, overwrite=True)


def test_a_folder_that_goes_while_it_is_looked_at_is_no_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looked = tmp_path / "x", []
    folder.mkdir()

    def file(dir: Path) -> Any:
        looked.append(dir)
        if folder.exists():  # another start sets it aside just now
            folder.rmdir()
        return made(dir=dir)

    made = run_folder.tempfile.TemporaryFile
    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", file)
    run_folder.reserve(tiny.config(output=str(tmp_path), name="x"), overwrite=False)
    assert looked == [folder, tmp_path]
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=f"cannot write to {tmp_path / 'file'}: "):
        run_folder.reserve(tiny.config(output=str(tmp_path / "file" / "in"), name="x"), False)
