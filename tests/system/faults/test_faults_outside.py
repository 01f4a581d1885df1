"""Faults from outside: signals at any moment, a full disk, lost answers, a lost node; and nothing
is left behind.
"""

import collections
import contextlib
import json
import os
import random
import re
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
import torch

from cluster import program
from experiments import settings as layers
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import LEDGER, verify
from experiments.runs.manifest import PARTS
from learner.events import Event
from rl_unlearn.adapters.adapter import digest, read_adapter
from rl_unlearn.errors import MachineError
from rl_unlearn.messages import Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROUNDS = 6
_MANY, _KILLING = 400, 300.0
"""Rounds of the run that a random killer accompanies, and for how many seconds."""


def settings(folder: Path, rounds: int = ROUNDS, heartbeat: float = 60.0, **changes: Any) -> Any:
    loop = {
        "rounds": rounds,
        "checkpoint_every": 1,
        "heartbeat": heartbeat,
        "restarts": 20,
        "timeout": 600.0,
    }
    return tiny.config(loop=loop, output=str(folder), tensorboard=False, **changes)


def undisturbed(config: Any) -> tuple[str, list[str]]:
    """Digests of what the inline run selects, and of all its versions."""
    told: list[tuple[str, dict[str, Any]]] = []
    inline = config.model_copy(update={"cluster": tiny.config().cluster})
    result = program.train(inline, tiny.into(told))
    return result.digest, tiny.versions(told)


def of(run: Path, rounds: int = ROUNDS) -> tuple[str, list[str]]:
    """The same of a run folder, whose ledger has no gap and no repetition."""
    verify(run / LEDGER, rounds)
    return digest(read_adapter(run)), [row["weights"] for row in rows(run / LEDGER)]


def command(folder: Path, config: Any) -> list[str]:
    file = folder / "tiny.yaml"
    file.write_text(layers.dump(config))
    train = ["train", "--config", str(file), "--no-evaluate", "--name", "run", "--resume", "auto"]
    return [sys.executable, "-m", "experiments", *train]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def recoveries(run: Path) -> list[float]:
    """Seconds from each restart to the next finished round, unless something else was lost before
    it.
    """
    told = [
        row
        for row in rows(run / "metrics.jsonl")
        if row.get("phase", "starting actors") == "starting actors"
    ]
    told = [row for row in told if row["event"] in ("restart", "phase", "round")]
    return [
        round(told[i + 2]["elapsed"] - told[i]["elapsed"], 1)
        for i in range(len(told) - 2)
        if [row["event"] for row in told[i : i + 3]] == ["restart", "phase", "round"]
    ]


def rays() -> set[int]:
    """Processes of Ray and of runs that are not anybody's child in another test."""
    found = set()
    for process in psutil.process_iter(["pid", "environ"]):
        if (process.info["environ"] or {}).get("RL_UNLEARN_TEST") == str(os.getpid()):
            found.add(process.info["pid"])
    return found - {os.getpid()}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "RL_UNLEARN_TEST": str(os.getpid()), **more}


def shared_memory() -> set[str]:
    return (
        {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set()
    )


def test_stopped_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    config = settings(tmp_path)
    run, moments = tmp_path / "run", random.Random(0)
    stops = 0
    for _ in range(40):
        begun = len(rows(run / LEDGER))
        process = subprocess.Popen(
            command(tmp_path, config), stderr=subprocess.DEVNULL, env=environment()
        )
        while process.poll() is None and len(rows(run / LEDGER)) < begun + 1 and stops < 3:
            time.sleep(0.02)
        if stops < 3 and process.poll() is None:
            time.sleep(moments.random())
            process.send_signal(signal.SIGTERM)
            code = process.wait(300)
            # Python gives its handlers back before it has ended: a signal by then finds a finished
            # run.
            finished = json.loads((run / "run_state.json").read_text())["state"] == "finished"
            assert code in (0, 143) or (finished and code == -signal.SIGTERM)
            stops += code == 143
            if code == 143:
                assert json.loads((run / "run_state.json").read_text())["state"] == "stopped"
        if process.wait(600) == 0:
            break
    assert stops, "it was never stopped: the test has lost its point"
    assert of(run) == undisturbed(config)
    assert not list(run.rglob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_ends_the_run_and_the_last_checkpoint_is_good(small_disk):
    store = Checkpoints(small_disk, 1, 9)
    store.keep_warm_up(Snapshot(_warm_up().tensors()))
    part = dict.fromkeys(PARTS, Snapshot({"x": torch.arange(10_000)}))
    committed: list[int] = []

    def fill() -> None:
        for round in range(1, 10):
            store.commit(round, part)
            committed.append(round)

    with pytest.raises(
        MachineError, match="No space left on device; free space and resume the run"
    ):
        fill()
    newest, found = Checkpoints(small_disk, 1, 9).newest(pytest.fail)
    assert newest == committed[-1]
    assert torch.equal(found.parts["learner"].tensors["x"], torch.arange(10_000))
    assert not list(small_disk.rglob(".*.tmp")), "and nothing half written is left"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("every", [1, 4], ids=["at a checkpoint", "at a record"])
def test_a_run_whose_disk_fills_says_so_and_goes_on_when_there_is_room(small_disk, tmp_path, every):
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    config = settings(small_disk, rounds=40)
    config = config.model_copy(
        update={"loop": config.loop.model_copy(update={"checkpoint_every": every})}
    )
    argv, run = command(tmp_path, config), small_disk / "run"
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while (
        not list(run.glob("checkpoints/round-*"))
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.01)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    said = process.communicate(timeout=600)[1]
    assert process.returncode == MachineError.exit_code, said
    assert re.search(
        r"error: cannot write .*No space left on device; free space and resume the run$",
        said.strip(),
    )
    assert "Traceback" not in said
    filler.unlink()
    assert not list((run / "checkpoints").glob(".*.tmp"))
    assert subprocess.run(argv, capture_output=True, text=True).returncode == 0
    assert of(run, 40) == undisturbed(config)


def _warm_up() -> Any:
    from tiny_batches import round_rows

    return round_rows(0)


def on_ray(folder: Path, rounds: int = ROUNDS, heartbeat: float = 60.0, **cluster: Any) -> Any:
    return settings(folder, rounds, heartbeat, rollout={"actors": 2, "batch": 4},
                    cluster={"inline": False, "actor_cpus": 0.1, **cluster})  # fmt: skip


def test_lost_answers_neither_lose_nor_repeat_an_update(tmp_path, record_property):
    config = on_ray(tmp_path)
    lost = {
        "num_failures": 6,
        "req_failure_prob": 0,
        "resp_failure_prob": 15,
        "in_flight_failure_prob": 0,
    }
    chaos = json.dumps({"CoreWorkerService.grpc_client.PushTask": lost})
    environ = environment(RAY_testing_rpc_failure=chaos)
    before = shared_memory()
    done = subprocess.run(
        command(tmp_path, config), env=environ, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert [row for row in rows(run / "metrics.jsonl") if row["event"] == "restart"], (
        "no answer was lost"
    )
    record_property("seconds from each restart to the next round", recoveries(run))
    assert of(run) == undisturbed(config)
    assert not rays(), "no process is left"
    assert shared_memory() <= before


def test_a_killed_driver_leaves_no_process(tmp_path):
    before = shared_memory()
    process = subprocess.Popen(
        command(tmp_path, on_ray(tmp_path)), stderr=subprocess.DEVNULL, env=environment()
    )
    deadline = time.monotonic() + 600
    while (
        not rows(tmp_path / "run" / LEDGER)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert any("ray::" in " ".join(psutil.Process(pid).cmdline()) for pid in rays()), (
        "there is something to leave"
    )
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while rays() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not rays()
    assert shared_memory() <= before


def victims() -> dict[str, list[int]]:
    """Process ids of the actors that live now, by class."""
    found: dict[str, list[int]] = {}
    for pid in rays():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            name = re.match(r"ray::(\w+Actor|Learner)\b", " ".join(process.cmdline()))
            if name and process.status() != psutil.STATUS_STOPPED:
                found.setdefault(name[1], []).append(pid)
    return found


def test_a_random_killer_is_survived(tmp_path, record_property):
    """For five minutes an actor is killed or stopped, or the driver killed, every few seconds; the
    driver is started again by whoever started it.
    """
    config, dice = on_ray(tmp_path, rounds=_MANY, heartbeat=15.0), random.Random(0)
    run, struck = tmp_path / "run", collections.Counter[str]()
    before = shared_memory()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(tmp_path, config), stderr=subprocess.DEVNULL, env=environment()
        )

    process, end = start(), time.monotonic() + _KILLING
    while time.monotonic() < end:
        time.sleep(dice.uniform(5, 20))
        assert process.poll() is None, (
            f"the run ended by itself with code {process.returncode} after {struck}"
        )
        if dice.random() < 0.15 and rows(run / LEDGER):
            process.kill()
            process.wait()
            struck["driver killed"] += 1
            process = start()
        elif alive := victims():
            kind = dice.choice(sorted(alive))
            fault = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(alive[kind]), fault)
                struck[f"{kind} {fault.name}"] += 1
    record_property("struck", dict(struck))
    record_property("updates when the killer stopped", len(rows(run / LEDGER)))
    assert process.wait(1200) == 0
    record_property("seconds from each restart to the next round", recoveries(run))
    assert struck.total() >= 10, "it was spared: the test has lost its point"
    assert of(run, _MANY) == undisturbed(config)
    assert not list(run.rglob(".*.tmp"))
    assert not rays(), "no process is left"
    assert shared_memory() <= before


def test_a_lost_node_changes_nothing(tmp_path, record_property):
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False}
    )
    other = cluster.add_node(num_cpus=3)
    config = on_ray(tmp_path, address=cluster.address, actor_cpus=1.0)
    restarts: list[dict[str, Any]] = []
    told: list[tuple[str, dict[str, Any]]] = []
    rounds: list[float] = []
    lost: list[float] = []

    def emit(said: Event) -> None:
        event, row = said.name, said.row()
        told.append((event, row))
        if event == "restart":
            restarts.append(row)
            rounds.clear()
        if event == "round":
            rounds.append(time.monotonic())
        if event == "round" and row["round"] == 2 and not restarts:
            rounds.clear()
            lost.append(time.monotonic())
            cluster.remove_node(other, allow_graceful=False)
            cluster.add_node(num_cpus=3)

    try:
        store = Checkpoints(tmp_path, 1, 2)
        result = program.train(config, emit, store=store)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert restarts or [row for event, row in told if event == "warning"], (
        "nobody was on the lost node"
    )
    record_property("seconds", round(rounds[0] - lost[0], 1))
    selected, versions = undisturbed(config)
    assert (result.digest, result.updates) == (selected, ROUNDS)
    assert set(tiny.versions(told)) == set(versions), "an update done again is the same one"
