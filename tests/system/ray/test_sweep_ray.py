"""Sweeps on a real Ray Tune: failing trials, early stopping, several objectives, nested actors,
kill and resume.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from conftest import ROOT

from cluster import placement, tuning
from cluster.placement import Place
from cluster.tuning import Draw, Plan, Report
from experiments import settings
from experiments.__main__ import main
from experiments.sweep.space_file import read
from experiments.sweep.trial import Trials
from rl_unlearn.errors import DataError, MachineError

pytestmark = pytest.mark.slow

PATIENCE = 600  # seconds, on a busy machine


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One private Ray for the tests of this process."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


# -- Tune's part, with trials that only report -----------------------------------------------------


def search(plan: Plan, trial: tuning.Trial) -> list[tuple[str, Any, str | None]]:
    """What is told of each trial that ended: event, x, cause."""
    told: list[tuple[str, Any, str | None]] = []
    tuning.search(
        plan, trial, lambda _: [Place({"CPU": 1.0}, {})], lambda drawn: f"x{drawn['x']}",
        lambda event, drawn, error: told.append((event, drawn["x"], error)),
    )  # fmt: skip
    return [news for news in told if news[0] != "started"]


def report_rounds(drawn: dict[str, Any], report: Report) -> None:
    if drawn["x"] == 9:
        raise ValueError("nine\nis too much")
    for round in range(1, 5):
        report(
            {"round": round, "score": drawn["x"], "forgotten": drawn["x"], "retained": -drawn["x"]}
        )
    (Path(drawn["folder"]) / f"done{drawn['x']}").touch()


@pytest.fixture
def by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not find this file: its functions travel whole."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("one_ray", "by_value")
def test_a_failing_trial_and_early_stopping(tmp_path: Path) -> None:
    values = {
        "x": Draw("grid_search", ([3, 9, 1],)),
        "folder": Draw("grid_search", ([str(tmp_path)],)),
    }
    plan = Plan(draws=values, folder=tmp_path, seed=0, trials=3, grace=1, rounds=4, concurrent=1)
    assert search(plan, report_rounds) == [
        ("finished", 3, None), ("failed", 9, "is too much"), ("finished", 1, None),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.glob("done*")] == ["done3"]  # ASHA stopped 1


@pytest.mark.usefixtures("one_ray", "by_value")
def test_optuna_draws_for_two_objectives(tmp_path: Path) -> None:
    values = {"x": Draw("uniform", (0.0, 1.0)), "folder": Draw("choice", ([str(tmp_path)],))}
    objectives: Any = {"forgotten": "max", "retained": "max"}
    plan = Plan(
        draws=values,
        folder=tmp_path,
        seed=0,
        trials=2,
        samples=2,
        objectives=objectives,
        concurrent=1,
    )
    ended = search(plan, report_rounds)
    assert [(event, error) for event, _, error in ended] == [("finished", None)] * 2
    assert len({x for _, x, _ in ended}) == 2


@pytest.mark.usefixtures("one_ray", "by_value")
def test_trials_that_tune_cannot_read_are_missed(tmp_path: Path) -> None:
    values = {
        "x": Draw("grid_search", ([3, 1],)),
        "folder": Draw("grid_search", ([str(tmp_path)],)),
    }
    plan = Plan(draws=values, folder=tmp_path, seed=0, trials=2)
    assert len(search(plan, report_rounds)) == 2

    def needs(drawn: dict[str, Any]) -> list[Place]:
        if drawn["x"] == 1:
            raise IndexError("as of a record that is not whole")
        return [Place({"CPU": 0.1}, {})]

    with pytest.raises(DataError, match=r"is damaged: [01] of 2 trials .* delete it and --resume"):
        tuning.search(plan, report_rounds, needs, lambda drawn: f"x{drawn['x']}", lambda *_: None)


@pytest.mark.usefixtures("one_ray")
def test_what_no_machine_can_hold_is_said() -> None:
    with pytest.raises(MachineError, match="needs 51 CPUs"):
        placement.check_room([Place({"CPU": 1.0}, {}), Place({"CPU": 50.0}, {})])


# -- real runs on the tiny world -------------------------------------------------------------------


def tiny_files(folder: Path, space: str, **overrides: Any) -> tuple[str, ...]:
    config = tiny.config(
        evaluation={"judge": str(tiny.clip_folder(2))},
        output=str(folder / "out"),
        tensorboard=False,
        **overrides,
    )
    (folder / "tiny.yaml").write_text(settings.dump(config))
    (folder / "space.yaml").write_text(space)
    return (
        "--config",
        str(folder / "tiny.yaml"),
        "--space",
        str(folder / "space.yaml"),
        "--name",
        "s",
        "--json",
    )


def sweep(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "sweep", *argv],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def states(root: Path) -> dict[str, str]:
    return {
        path.parent.name: json.loads(path.read_text())["state"]
        for path in root.glob("*/run_state.json")
    }


@pytest.mark.faults
def test_a_sweep_killed_in_the_middle_goes_on_and_lists_what_failed(tmp_path: Path) -> None:
    """Two settings, one with a reward that only actors miss, times two seeds; killed -9 while a
    second one trains.
    """
    loop = {"rounds": 20, "checkpoint_every": 1}
    mixes = (
        "  - {name: cat, concept: cat}\n  - {name: cow, concept: dog, reward.images: {cow: 1.0}}\n"
    )
    argv = tiny_files(
        tmp_path, f"space:\n  seed: [0, 1]\ntogether:\n{mixes}concurrent: 1\n", loop=loop
    )
    root = tmp_path / "out" / "s"
    first = sweep(*argv)
    until = time.monotonic() + PATIENCE
    while list(states(root).values()).count("finished") != 1 or not list(
        root.glob("cat-seed1/checkpoints/round-*")
    ):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.2)
    kill_all(first)
    done = [name for name, state in states(root).items() if state == "finished"]
    before = {name: (root / name / "run_state.json").read_bytes() for name in done}

    second = sweep("--resume", "--name", "s", "--json", f"output={tmp_path / 'out'}")
    said, told = second.communicate(timeout=PATIENCE)
    assert second.returncode == 4, told
    assert {name: (root / name / "run_state.json").read_bytes() for name in done} == before
    assert states(root) == {
        "cat-seed0": "finished",
        "cat-seed1": "finished",
        "cow-seed0": "failed",
        "cow-seed1": "failed",
    }
    outcome = json.loads(said)
    assert set(outcome["failed"]) == {"cow-seed0", "cow-seed1"}
    assert all("cow" in reason and "\n" not in reason for reason in outcome["failed"].values())
    text = (root / "table.md").read_text()
    assert "| cat ★ | 2 |" in text
    assert {path.name for path in root.iterdir()} >= {
        "table.csv",
        "results.json",
        "front.png",
        "curves.png",
        "report.html",
        "front",
    }
    assert len(list((root / "front").iterdir())) == 1
    run = json.loads((root / "cat-seed1" / "run_state.json").read_text())
    assert run["trial"]["settings"] == {"seed": 1, "concept": "cat"}
    assert (root / "cat-seed1" / "report.html").is_file()
    rows = [
        json.loads(line) for line in (root / "cat-seed1" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["phase"] for row in rows if row["event"] == "phase"].count("restoring") == 1, (
        "not from the start"
    )
    assert [row["round"] for row in rows if row["event"] == "round"] == list(range(1, 21))


def test_a_concept_that_no_trial_can_have_is_told_before_any_begins(
    tmp_path: Path, capsys: Any
) -> None:
    argv = tiny_files(tmp_path, "space:\n  seed: [0, 1]\n  concept: [cat, cow]\nconcurrent: 1\n")
    assert main(["sweep", *argv]) == 2
    assert "concept 'cow' is not in this world" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the sweep and its own Ray, no one else's; the driver first."""
    family = [
        process.pid,
        *(child.pid for child in psutil.Process(process.pid).children(recursive=True)),
    ]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


@pytest.mark.faults
@pytest.mark.usefixtures("one_ray")
def test_a_trial_with_its_own_actors_lives_in_its_placement_group(tmp_path: Path) -> None:
    tiny_files(tmp_path, "space: {seed: [0]}\nper_trial: {cpus: 0.2}\n")
    base = settings.load(
        [str(tmp_path / "tiny.yaml")], ["cluster.inline=false", "cluster.actor_cpus=0.3"]
    )
    trials = Trials(tmp_path, base, read(tmp_path / "space.yaml", base))
    # 0.2 + 4 * 0.3 of 2 CPUs: a second group for the actors would not fit beside this one.
    assert trials.places({"seed": 0}) == [Place({"CPU": 0.2}, {}), *[Place({"CPU": 0.3}, {})] * 4]
    plan = Plan(draws=trials.space.draws(), folder=tmp_path, seed=0, trials=1)
    tuning.search(plan, trials, trials.places, trials.name, lambda *_: None)
    assert states(tmp_path) == {"seed0": "finished"}, (
        tmp_path / "seed0" / "run_state.json"
    ).read_text()
