"""The demo as a job on a real cluster: everything that can die dies once, and it is stopped ten
times.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from conftest import ROOT
from head import Head, running_head

from cluster import program
from experiments import settings
from experiments.files import read_json
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import LEDGER, verify

pytestmark = [pytest.mark.slow, pytest.mark.faults]

CONFIG = "experiments/configs/canvas.yaml"
ROUNDS = 32
PATIENCE = 1800
KILLS = {3: "RolloutActor", 6: "CriticActor", 11: "ReplayActor", 17: "Learner"}
"""Updates after which an actor is killed."""
LEAVES = 24
"""Update after which a node is lost and another one comes."""


def updates(run: Path) -> list[str]:
    """Digests of the weights after each update so far."""
    path = run / LEDGER
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["weights"] for line in lines if line.endswith("}")]


def until(true: Callable[[], Any], job: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert job is None or job.poll() is None, "".join(job.communicate())
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.1)


def submitted(head: Head, run: Path, *words: str) -> list[str]:
    """The command that submits the demo, which writes its run into ``run``; ``words`` are Ray's own
    options.
    """
    return [f"{Path(sys.executable).parent}/ray", "job", "submit", "--address", head.url,
            "--working-dir", str(ROOT),
            *words, "--", "python", "-m", "experiments", "train", "--config", CONFIG, "--name",
            run.name,
            f"output={run.parent}", "cluster.address=auto"]  # fmt: skip


def undisturbed() -> list[str]:
    """Digests of all versions of a run in one process."""
    config, events = settings.load([str(ROOT / CONFIG)], ["cluster.inline=true"]), []
    program.train(config, tiny.into(events))
    return tiny.versions(events)


def workers(head: Head, kind: str) -> list[psutil.Process]:
    """Processes of this cluster's actors of a class."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        known = (process.info["environ"] or {}).get("RAY_AUTH_TOKEN_PATH") == head.environment[
            "RAY_AUTH_TOKEN_PATH"
        ]
        if known and (process.info["cmdline"] or [""])[0].startswith(f"ray::{kind}"):
            found.append(process)
    return found


def test_the_demo_on_two_nodes_survives_the_death_of_every_part(tmp_path, record_property):
    run, begun = tmp_path / "out" / "demo", time.monotonic()
    with running_head(cpus=1) as head:
        node = head.join(cpus=1)
        job = subprocess.Popen(
            [*submitted(head, run), "loop.heartbeat=60"],
            env={**os.environ, **head.environment}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        for number, kind in KILLS.items():
            until(lambda number=number: len(updates(run)) >= number, job)
            (victim, *_) = workers(head, kind)
            victim.kill()
            until(lambda kind=kind, old=victim: any(new != old for new in workers(head, kind)), job)
        until(lambda: len(updates(run)) >= LEAVES, job)
        for process in (*psutil.Process(node.pid).children(recursive=True), node):
            process.kill()
        head.join(cpus=1)
        told, _ = job.communicate(timeout=PATIENCE)
    record_property("seconds", round(time.monotonic() - begun))
    assert job.returncode == 0, told
    verify(run / LEDGER, ROUNDS)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows if row["event"] == "round"] == list(range(1, ROUNDS + 1))
    assert sum(row["event"] == "restart" for row in rows) >= 4, (
        "three actors with state, and a node"
    )
    figures = read_json(run / "evaluation.json")["after"]
    assert figures["ua"] >= 95, figures
    assert min(figures["coherence"], figures["ira"], figures["cra"]) >= 95, figures
    assert updates(run) == undisturbed(), "the bits of an undisturbed run in one process"


def test_ray_job_stop_at_ten_random_moments_loses_no_checkpoint(tmp_path, record_property):
    """By Ray's own command, which kills after three seconds of grace: in turn while the run starts
    and while it learns. Then the same job once more, to its end.
    """
    run, dice = tmp_path / "out" / "demo", random.Random(0)
    states = []
    with running_head(cpus=2) as head:
        environment = {**os.environ, **head.environment}
        ray = submitted(head, run)[0]

        def submit(*words: str) -> None:
            command = [
                *submitted(head, run, *words),
                "loop.checkpoint_every=1",
                "--resume",
                "auto",
                "--no-evaluate",
            ]
            done = subprocess.run(
                command, env=environment, text=True, capture_output=True, timeout=PATIENCE
            )
            assert done.returncode == 0, done.stdout + done.stderr

        for number in range(10):
            learned = len(updates(run))
            submit("--no-wait", "--submission-id", f"stopped-{number}")
            if number % 2:
                until(lambda learned=learned: len(updates(run)) > learned)
            time.sleep(dice.uniform(0, 4 if number % 2 else 15))
            committed = max(
                (int(path.name[-6:]) for path in run.glob("checkpoints/round-*")), default=0
            )
            stop = [ray, "job", "stop", "--address", head.url, f"stopped-{number}"]
            subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=PATIENCE)
            found = Checkpoints(run, 1, 2).newest(pytest.fail)  # fails for one that is not whole
            assert (found[0] if found else 0) >= committed
            states.append(
                (
                    committed,
                    read_json(run / "run_state.json")["state"] if run.exists() else "unborn",
                )
            )
        submit()
    record_property("rounds committed and state at each stop", states)
    verify(run / LEDGER, ROUNDS)
    assert read_json(run / "run_state.json")["state"] == "finished"
    assert len({round for round, _ in states}) >= 4, "the stops met no different moments"
    assert updates(run) == undisturbed(), "the bits of a run that nobody stopped"
