"""A cluster of two nodes, the demo's configuration as a job, and everything that can die dying once."""

import json
import os
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
from experiments.ledger import LEDGER, verify

pytestmark = [pytest.mark.slow, pytest.mark.faults]

CONFIG = "experiments/configs/canvas.yaml"
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


def until(true: Callable[[], Any], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert job.poll() is None, "".join(job.communicate())
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.1)


def workers(head: Head, kind: str) -> list[psutil.Process]:
    """Processes of this cluster's actors of a class."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        known = (process.info["environ"] or {}).get("RAY_AUTH_TOKEN_PATH") == head.environment["RAY_AUTH_TOKEN_PATH"]
        if known and (process.info["cmdline"] or [""])[0].startswith(f"ray::{kind}"):
            found.append(process)
    return found


def test_the_demo_on_two_nodes_survives_the_death_of_every_part(tmp_path, record_property):
    run, begun = tmp_path / "out" / "demo", time.monotonic()
    with running_head(cpus=1) as head:
        node = head.join(cpus=1)
        job = subprocess.Popen(
            [f"{Path(sys.executable).parent}/ray", "job", "submit", "--address", head.url, "--working-dir", str(ROOT),
             "--", "python", "-m", "experiments", "train", "--config", CONFIG, "--name", "demo",
             f"output={run.parent}", "loop.heartbeat=60", "cluster.address=auto"],
            env={**os.environ, **head.environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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
    config = settings.load([str(ROOT / CONFIG)], ["cluster.inline=true"])
    verify(run / LEDGER, config.loop.rounds)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows if row["event"] == "round"] == list(range(1, config.loop.rounds + 1))
    assert sum(row["event"] == "restart" for row in rows) >= 4, "three actors with state, and a node"
    figures = read_json(run / "evaluation.json")["after"]
    assert figures["ua"] >= 95, figures
    assert min(figures["coherence"], figures["ira"], figures["cra"]) >= 95, figures
    events: list[tuple[str, dict[str, Any]]] = []
    program.train(config, lambda *event: events.append(event))
    assert updates(run) == tiny.versions(events), "the bits of an undisturbed run in one process"
