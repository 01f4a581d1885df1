"""Faults on Ray: whoever is killed, stopped or poisoned, the run ends with the bits of an
undisturbed one.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from faults import faulty

from cluster import connection, program, supervision
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import LEDGER, verify
from experiments.runs.recorder import Recorder
from experiments.runs.run_folder import RunFolder
from learner.events import Event
from learner.timeline import Timeline
from rl_unlearn.errors import TrainingError

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROUNDS = 4
PATIENCE = 60.0
"""Seconds of silence allowed where nobody hangs: this machine may be busy."""
HEARTBEAT = 12.0
CLASSES = {
    "rollout": "RolloutActor",
    "critic": "CriticActor",
    "replay": "ReplayActor",
    "learner": "Learner",
}


def settings(**changes: Any) -> Any:
    loop = {
        "rounds": ROUNDS,
        "checkpoint_every": 1,
        "timeout": 600.0,
        "heartbeat": PATIENCE,
        "restarts": 2,
    }
    return tiny.config(
        loop=loop | changes.pop("loop", {}), rollout={"actors": 2, "batch": 4},
        cluster={"inline": False, "actor_cpus": 0.1}, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One private Ray for all tests here, instead of one for each run."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "ray_cluster", lambda _: contextlib.nullcontext())
        patch.setattr(supervision, "_LONGEST_PAUSE", 0.1)
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Any, list[str]]:
    """Result of the inline run, and the digests of all its versions."""
    told: list[tuple[str, dict[str, Any]]] = []
    config = settings().model_copy(update={"cluster": tiny.config().cluster})
    return program.train(config, tiny.into(told)), tiny.versions(told)


class Silence:
    """A progress that keeps what it is shown, and when."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, str, dict[str, Any]]] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def show(self, event: Event) -> None:
        self.shown.append((time.time(), event.name, event.row()))

    def messages(self, event: str) -> list[str]:
        return [row["message"] for _, name, row in self.shown if name == event]


def run(folder: Path, config: Any) -> tuple[Any, Silence]:
    """A run with its records, as `train` makes them."""
    shown = Silence()
    folder.mkdir(exist_ok=True)
    store = Checkpoints(folder, config.loop.checkpoint_every, config.loop.checkpoints)
    with Recorder(RunFolder(folder), shown) as recorder:
        result = program.train(config, recorder, folder / "replay", store=store)
    return result, shown


def whole(folder: Path) -> list[str]:
    """The records have no gap and no repetition; returns the digests of all versions."""
    verify(folder / LEDGER, ROUNDS)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows if row["event"] == "round"] == list(range(1, ROUNDS + 1))
    looks = [row["policy_version"] for row in rows if row["event"] == "selection"]
    assert len(looks) == len(set(looks))
    return [json.loads(line)["weights"] for line in (folder / LEDGER).read_text().splitlines()]


def gone(mark: Path) -> bool:
    """Whether the process that met the fault has ended."""
    pid = int(mark.read_text())
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def meets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, who: str, *fault: Any) -> Path:
    """Replaces an actor's class by one that meets a fault; the file that says so."""
    mark = tmp_path / "fault"
    name = CLASSES[who]
    monkeypatch.setattr(program, name, faulty(getattr(program, name), *fault, mark))
    return mark


def recovery(mark: Path, shown: Silence) -> float:
    """Seconds from the fault to the next round that was reported, after the restart if there was
    one.
    """
    met = mark.stat().st_mtime
    since = max([met, *(at for at, event, _ in shown.shown if event == "restart")])
    return next(at for at, event, _ in shown.shown if event == "round" and at > since) - met


@pytest.mark.parametrize(
    ("who", "method", "call", "point", "fault"),
    [
        ("learner", "update", 3, "before", "kill"),
        ("learner", "update", 1, "after", "kill"),
        ("critic", "fit", 4, "after", "kill"),
        ("replay", "add", 7, "after", "kill"),
        ("rollout", "sample", 3, "after", "kill"),
        ("critic", "score", 2, "before", "stop"),
        ("rollout", "sample", 2, "before", "stop"),
    ],
)
def test_whoever_is_lost_the_bits_are_those_of_an_undisturbed_run(
    undisturbed, monkeypatch, tmp_path, record_property, who, method, call, point, fault
):
    mark = meets(monkeypatch, tmp_path, who, method, call, point, fault)
    result, shown = run(
        tmp_path / "run", settings(loop={"heartbeat": HEARTBEAT} if fault == "stop" else {})
    )
    assert mark.exists(), "the fault was never met: the test has lost its point"
    record_property("seconds", round(recovery(mark, shown), 1))
    expected, versions = undisturbed
    assert whole(tmp_path / "run") == versions
    assert len(set(versions)) == ROUNDS
    assert (result.digest, result.images, result.updates) == (
        expected.digest,
        expected.images,
        expected.updates,
    )
    assert gone(mark)
    restarts, warnings = shown.messages("restart"), shown.messages("warning")
    if who == "rollout":
        assert not restarts, "its call is repeated"
        assert len(warnings) == (fault == "stop")
    else:
        (told,) = restarts
        # Ray may find out first that a stopped process cannot be reached; it does not say whose
        # that is.
        assert (
            "unavailable" in told
            if fault == "stop" and "hangs" not in told
            else CLASSES[who] in told
        )
        assert fault == "stop" or "hangs" not in told
        assert "\n" not in told


def test_an_asynchronous_run_repeats_what_was_lost_and_its_ledger_repeats_it_all(
    monkeypatch, tmp_path
):
    loop = {"mode": "async", "pipeline": 2, "rounds": 6, "checkpoint_every": 3}
    config = settings(loop=loop)
    mark = meets(monkeypatch, tmp_path, "critic", "score", 6, "before", "kill")
    told: list[tuple[str, dict[str, Any]]] = []
    store = Checkpoints(tmp_path, 3, 2)
    program.train(config, tiny.into(told), store=store)
    assert mark.exists(), "the fault was never met: the test has lost its point"
    updates = [row for event, row in told if event == "update"]
    (restart,) = [row for event, row in told if event == "restart"]
    assert restart["round"] == 3
    lost = updates[3 : len(updates) - 3]
    assert lost
    ledger = updates[:3] + updates[-3:]
    assert lost == ledger[3 : 3 + len(lost)]
    again: list[tuple[str, dict[str, Any]]] = []
    alone = config.model_copy(update={"cluster": tiny.config().cluster})
    program.train(alone, tiny.into(again), timeline=Timeline(alone, ledger))
    assert [row for event, row in again if event == "update"] == ledger, "in one process, too"


def test_when_nothing_helps_the_cause_is_named(monkeypatch, tmp_path):
    mark = meets(monkeypatch, tmp_path, "learner", "update", 1, "before", "kill")
    config = settings(loop={"restarts": 1, "checkpoint_every": 0})
    mark_again = tmp_path / "again"
    monkeypatch.setattr(
        program, "Learner", faulty(program.Learner, "update", 1, "before", "kill", mark_again)
    )
    with pytest.raises(
        TrainingError, match=r"given up after 1 restarts from round 0: Learner was lost"
    ) as caught:
        run(tmp_path / "run", config)
    assert "\n" not in str(caught.value)
    assert mark.exists()
    assert mark_again.exists()
