"""Checkpoints and resume: the same bits as a run that was never stopped, and damage is named, never
loaded.
"""

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import quick  # noqa: F401

from actors.replay import ReplayActor
from cluster import inline, program
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import AHEAD, LEDGER
from experiments.runs.manifest import MANIFEST, PARTS
from experiments.runs.resuming import check, trim_rows
from learner import events
from learner.events import Emit, Event
from learner.learner import Learner
from learner.timeline import Timeline
from rl_unlearn.errors import ConfigError, DataError, LostError, MachineError
from rl_unlearn.messages import Snapshot

pytestmark = pytest.mark.usefixtures("quick")

ROUNDS = 6


class DeathError(Exception):
    """Ends a run between two of its events."""


class Record:
    """Takes events, and dies at a round if told so."""

    def __init__(self, die_at: int | None = None):
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self._die_at = die_at

    def __call__(self, event: Event) -> None:
        row = event.row()
        if event.name == "round" and row["round"] == self._die_at:
            raise DeathError
        self.rows.append((event.name, row))

    def metrics(self, after: int = 0) -> list[tuple[str, dict[str, Any]]]:
        """What was said of later rounds, without what depends on timing."""
        times = (
            "seconds",
            "images_per_second",
            "replay",
        )  # the store holds what was drawn ahead, too
        told = [
            (e, {k: v for k, v in row.items() if k not in times})
            for e, row in self.rows
            if e in ("round", "selection")
        ]
        told = [(event, row) for event, row in told if row["round"] > after]
        # Looks run beside the training: which of the two is told first is a matter of timing.
        return sorted(told, key=lambda pair: (pair[0], pair[1]["policy_version"]))


def settings(**changes: Any) -> Any:
    loop = {"rounds": ROUNDS, "checkpoint_every": 1, "checkpoints": ROUNDS} | changes.pop(
        "loop", {}
    )
    return tiny.config(loop=loop, **changes)


def run(folder: Path, config: Any, record: Record, resumed: bool = False) -> Any:
    store = Checkpoints(folder, config.loop.checkpoint_every, config.loop.checkpoints)
    found = store.newest(lambda line: None) if resumed else None
    return program.train(config, record, store=store, start=found[1] if found else None)


FEW = [
    {},
    {"loop": {"pipeline": 2}, "selection": {"every": 1}},
    {"learner": {"anchor_weight": 100.0}, "reward": {"anchor": "dog"}},
]
MANY = [
    {"loop": {"pipeline": 0}}, {"estimator": {"name": "terminal"}},
    {"estimator": {"name": "qprop"}},
    {"learner": {"updates_per_round": 2}, "replay": {"max_lag": 8}},
    {"model": {"path": str(tiny.pipeline_folder()), "dtype": "bf16"}},
    {"lora": {"start": str(tiny.adapter_folder())}},
    {"estimator": {"name": "backprop"}},
]  # fmt: skip


@pytest.mark.parametrize(
    "changes", [*FEW, *(pytest.param(changes, marks=pytest.mark.long) for changes in MANY)]
)
def test_a_resumed_run_gives_the_same_bits_from_every_round(tmp_path, changes):
    config = settings(**changes)
    straight = Record()
    expected = run(tmp_path / "straight", config, straight)
    for death in (2, 4, ROUNDS):
        folder = tmp_path / f"dies-{death}"
        with pytest.raises(DeathError):
            run(folder, config, Record(die_at=death))
        again = Record()
        result = run(folder, config, again, resumed=True)
        assert result.digest == expected.digest
        assert (result.policy_version, result.images, result.updates) == (
            expected.policy_version, expected.images, expected.updates
        )  # fmt: skip
        assert again.metrics() == straight.metrics(after=death - 1), "metrics rows, too"
        if expected.critic is not None:
            assert all(
                torch.equal(result.critic.weights[k], v) for k, v in expected.critic.weights.items()
            )


def test_every_checkpoint_of_a_run_leads_to_the_same_end(tmp_path):
    config = settings()
    straight = Record()
    expected = run(tmp_path, config, straight)
    for round in range(1, ROUNDS + 1):
        store = Checkpoints(tmp_path, 0, 1)
        for later in store._rounds():
            if later > round:
                (tmp_path / "checkpoints" / f"round-{later:06d}").rename(tmp_path / f"away-{later}")
        assert store.newest(lambda line: None)[0] == round
        again = Record()  # from the last one only the final look is missing
        assert (
            program.train(config, again, start=store.newest(lambda line: None)[1]).digest
            == expected.digest
        )
        assert tiny.versions(again.rows) == tiny.versions(straight.rows)[round:]
        for away in tmp_path.glob("away-*"):
            away.rename(
                tmp_path / "checkpoints" / f"round-{int(away.name.removeprefix('away-')):06d}"
            )


# Runs well ahead of the learner, so that timing has much to decide.
ASYNC = {"loop": {"mode": "async", "pipeline": 2, "checkpoint_every": 2}, "selection": {"every": 1}}


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the calls of inline actors take other turns, those that a number names."""
    resolved, source = inline._resolved, random.Random(0)

    async def later(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(arg, asyncio.Future) for arg in args):
            for _ in range(source.randrange(30)):
                await asyncio.sleep(0)
        return await resolved(args, kwargs)

    monkeypatch.setattr(inline, "_resolved", later)
    return source.seed


def updates(record: Record) -> list[dict[str, Any]]:
    return [row for event, row in record.rows if event == "update"]


def asynchronous(folder: Path, record: Record, resumed: bool = False, ledger: Any = ()) -> Any:
    """A run in asynchronous mode, gone on with by what its ledger on disk would say."""
    config = settings(**ASYNC)
    store = Checkpoints(folder, 2, ROUNDS)
    found = store.newest(lambda line: None) if resumed else None
    timeline = Timeline(config, json.loads(json.dumps(list(ledger))))
    return program.train(
        config, record, store=store, start=found[1] if found else None, timeline=timeline
    )


def test_an_asynchronous_run_repeats_what_is_on_record_bit_by_bit(tmp_path, timing):
    died, freely, from_checkpoint, from_start = (
        Record(die_at=ROUNDS - 1),
        Record(),
        Record(),
        Record(),
    )
    timing(1)
    with pytest.raises(DeathError):
        asynchronous(tmp_path / "died", died)
    told = updates(died)
    assert len(told) == ROUNDS - 1
    timing(4)
    asynchronous(tmp_path / "free", freely)
    assert [row["weights"] for row in updates(freely)[: len(told)]] != [
        row["weights"] for row in told
    ]
    timing(2)
    result = asynchronous(tmp_path / "died", from_checkpoint, resumed=True, ledger=told)
    assert updates(from_checkpoint)[:-1] == told[4:], (
        "goes on from round 4; nothing of the row is another"
    )
    assert result.updates == ROUNDS
    timing(3)
    asynchronous(tmp_path / "again", from_start, ledger=told)
    assert updates(from_start)[:-1] == told


def test_which_version_an_asynchronous_run_chooses_stands_in_its_ledger(tmp_path, timing):
    freely, again = Record(), Record()
    timing(5)
    first = asynchronous(tmp_path / "free", freely)
    timing(6)
    second = asynchronous(tmp_path / "again", again, ledger=updates(freely))
    assert second.digest == first.digest
    assert (second.policy_version, second.images) == (first.policy_version, first.images)
    looks = [
        [row for event, row in record.metrics() if event == "selection"]
        for record in (freely, again)
    ]
    assert looks[0] == looks[1]
    assert len(looks[0]) > ROUNDS / 2


@pytest.mark.parametrize("loss", [3, 4, 5])
def test_a_restarted_asynchronous_run_repeats_what_was_lost_bit_by_bit(
    tmp_path, monkeypatch, timing, loss
):
    monkeypatch.setattr("cluster.supervision.time.sleep", lambda seconds: None)

    class Losing(Record):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.name == "update" and event.row()["update"] == loss and not self.lost:
                self.lost = True
                raise LostError("CriticActor was lost")

        lost = False

    record = Losing()
    timing(loss)
    assert asynchronous(tmp_path, record).updates == ROUNDS
    (restart,) = [row for event, row in record.rows if event == "restart"]
    assert restart["round"] == (loss - 1) // 2 * 2
    rows = updates(record)
    again = rows[loss : loss + loss - restart["round"]]
    assert again == rows[restart["round"] : loss]
    assert [row["update"] for row in rows] == [
        *range(1, loss + 1),
        *range(restart["round"] + 1, ROUNDS + 1),
    ]
    # What the metrics keep of looks, and what is said again, is each round once.
    cut = next(i for i, (event, _) in enumerate(record.rows) if event == "restart")
    before, after = (
        [row["round"] for event, row in part if event == "selection" and not row["final"]]
        for part in (record.rows[:cut], record.rows[cut:])
    )
    kept = [round for round in before if round <= restart["newest_round"]]
    assert kept + after == list(range(1, len(kept + after) + 1))


@pytest.mark.faults
def test_a_killed_asynchronous_process_repeats_its_ledger(tmp_path, timing, monkeypatch):
    from experiments import run as runs
    from experiments import settings as layers
    from experiments.__main__ import main

    def failing(config: Any, emit: Emit, *_: Any, **__: Any) -> None:
        assert ledger.read_text().splitlines() == told, "nothing is cut before it goes on"
        emit(events.Phase(phase="training"))
        raise MachineError("no Ray cluster answers")

    loop = ASYNC["loop"] | {"rounds": 40, "checkpoint_every": 5}
    config = tiny.config(**ASYNC | {"loop": loop}, output=str(tmp_path), tensorboard=False)
    (tmp_path / "tiny.yaml").write_text(layers.dump(config))
    argv = ["train", "--config", str(tmp_path / "tiny.yaml"), "--no-evaluate", "--name", "killed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *argv], stderr=subprocess.DEVNULL
    )
    ledger, deadline = tmp_path / "killed" / LEDGER, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if ledger.is_file() and ledger.read_bytes().count(b"\n") in (8, 13, 18, 23):
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    told = ledger.read_text().splitlines()
    assert 8 <= len(told) < 40, "killed half-way"
    newest = Checkpoints(tmp_path / "killed", 5, 9)._rounds()[-1]
    assert newest < len(told), "and between two checkpoints"
    with (
        monkeypatch.context() as broken
    ):  # what is on record outlives a sitting that does not get that far
        broken.setattr(runs, "train", failing)
        assert main([*argv, "--resume", "auto"]) == MachineError.exit_code
        assert len(ledger.read_text().splitlines()) == newest
    timing(4)
    assert main([*argv, "--resume", "auto"]) == 0
    again = ledger.read_text().splitlines()
    assert again[: len(told)] == told
    assert len(again) == 40
    assert not (tmp_path / "killed" / AHEAD).exists()


def test_a_checkpoint_shows_the_store_before_the_next_batch_however_late_its_snapshot_comes(
    tmp_path, monkeypatch
):
    snapshot = ReplayActor.snapshot

    async def late(replay: ReplayActor, version: int) -> Snapshot:
        for _ in range(300):
            await asyncio.sleep(0)
        return await snapshot(replay, version)

    monkeypatch.setattr(ReplayActor, "snapshot", late)
    config = settings(loop={"rounds": 4})
    assert run(tmp_path, config, Record()).updates == 4


def test_an_asynchronous_run_goes_on_without_gap_or_repetition(tmp_path):
    config = settings(loop={"mode": "async"})
    with pytest.raises(DeathError):
        run(tmp_path, config, Record(die_at=4))
    again = Record()
    result = run(tmp_path, config, again, resumed=True)
    assert result.updates == ROUNDS
    rounds = [row for event, row in again.rows if event == "round"]
    assert [row["round"] for row in rounds] == [4, 5, 6]
    assert all(row["policy_lag_max"] <= config.replay.max_lag for row in rounds)
    assert rounds[-1]["replay"]["repeated"] == 0


def test_the_time_of_a_resumed_run_includes_that_before(tmp_path, monkeypatch):
    from experiments import run as runs
    from experiments.__main__ import main
    from learner.loop import Result

    def trained(config: Any, *_: Any) -> Result:
        state = {
            name: torch.zeros_like(tensor)
            for name, tensor in Learner(config).weights().state.items()
        }
        return Result(state, 1, "", None, images=8, updates=1, seconds=1000.0)

    monkeypatch.setattr(runs, "_train", trained)
    from experiments import settings as layers

    (tmp_path / "tiny.yaml").write_text(
        layers.dump(tiny.config(output=str(tmp_path), tensorboard=False))
    )
    assert (
        main(["train", "--config", str(tmp_path / "tiny.yaml"), "--no-evaluate", "--name", "run"])
        == 0
    )
    told = json.loads((tmp_path / "run" / "run_state.json").read_text())["training"]
    assert 1000 <= told["wall_seconds"] < 1300


def test_more_rounds_can_be_asked_for(tmp_path):
    longer = run(tmp_path / "one", settings(), Record())
    run(tmp_path / "two", settings(loop={"rounds": 3}), Record())
    assert (
        run(tmp_path / "two", settings(), Record(), resumed=True).updates
        == longer.updates
        == ROUNDS
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with checkpoints of rounds 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    config = settings(loop={"checkpoint_every": 2, "rounds": 5})
    store = Checkpoints(folder, 2, 9)
    program.train(config, lambda _: None, store=store)
    return folder


def copied(made: Path, to: Path) -> Path:
    shutil.copytree(made, to)
    return to / "checkpoints"


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2], "flipped": flip,
    "emptied": lambda content: b"",
    "longer": lambda content: content + b"\0",
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
@pytest.mark.parametrize("name", [MANIFEST, *(f"{part}.safetensors" for part in PARTS)])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(made, tmp_path, name, damage):
    root = copied(made, tmp_path / "run")
    file = root / "round-000004" / name
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    told: list[str] = []
    found = Checkpoints(tmp_path / "run", 2, 9).newest(told.append)
    assert found[0] == 2
    quarantined = root / "quarantine-round-000004"
    assert quarantined.is_dir(), "kept for inspection"
    assert not (root / "round-000004").exists()
    assert len(told) == 1
    assert "round-000004 is damaged" in told[0]


def test_without_a_whole_checkpoint_nothing_is_loaded(made, tmp_path):
    root = copied(made, tmp_path / "run")
    (warm_up,) = root.glob("warm-up-*")
    warm_up.write_bytes(flip(warm_up.read_bytes()))
    told: list[str] = []
    with pytest.raises(DataError, match=r"no checkpoint in .* is whole"):
        Checkpoints(tmp_path / "run", 2, 9).newest(told.append)
    assert len(told) == 2
    assert len(list(root.glob("quarantine-*"))) == 2


def test_the_newest_are_kept_and_nothing_half_written_is_left(tmp_path):
    run(tmp_path, settings(loop={"checkpoints": 2}), Record())
    names = sorted(
        path.name
        for path in (tmp_path / "checkpoints").iterdir()
        if not path.name.startswith("warm-up-")
    )
    assert names == [f"round-{ROUNDS - 1:06d}", f"round-{ROUNDS:06d}"]
    files = sorted(path.name for path in (tmp_path / "checkpoints" / names[0]).iterdir())
    assert files == sorted([MANIFEST, *(f"{part}.safetensors" for part in PARTS)])
    assert all(
        load_file(tmp_path / "checkpoints" / names[0] / f"{part}.safetensors") for part in PARTS
    )


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(made, tmp_path, monkeypatch):
    copied(made, tmp_path / "run")
    store = Checkpoints(tmp_path / "run", 2, 9)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.runs.checkpoint_files.write_bytes", full)
    with pytest.raises(
        MachineError, match="round-000006: No space left on device; free space and resume"
    ):
        store.commit(6, dict.fromkeys(PARTS, Snapshot({"x": torch.zeros(1)})))
    assert store.newest(lambda line: None)[0] == 4
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_metrics_of_later_rounds_and_cut_lines_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"event": "phase"},
        {"event": "round", "round": 1},
        {"event": "selection", "round": 2},
        {"event": "selection", "round": 3},
        {"event": "round", "round": 2},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "rou')
    trim_rows(path, 1, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:3], (
        "rollouts are ahead by a round"
    )


def test_another_configuration_is_refused_with_its_keys(tmp_path, monkeypatch):
    from experiments import settings as layers

    (tmp_path / "run_state.json").write_text("{}")
    before = layers.load(overrides=["concept=frog"])
    (tmp_path / "config.yaml").write_text(layers.dump(before))
    check(
        tmp_path,
        layers.load(
            overrides=["concept=frog", "loop.rounds=99", "cluster.inline=true", "evaluation.seed=3"]
        ),
    )
    with pytest.raises(ConfigError, match=r"learner\.lr \(0\.003 before, 0\.1 now\)"):
        check(tmp_path, layers.load(overrides=["concept=frog", "learner.lr=0.1"]))
    with monkeypatch.context() as patch:
        patch.setenv("RL_UNLEARN__LEARNER__LR", "0.1")
        with pytest.raises(ConfigError, match=r"learner\.lr \(0\.003 before, 0\.1 now\)"):
            check(tmp_path, layers.load(overrides=["concept=frog"]))
    with pytest.raises(DataError, match="holds no run to resume"):
        check(tmp_path / "no", before)


@pytest.mark.faults
def test_a_killed_process_goes_on_where_it_was(tmp_path, capsys):
    from experiments import settings as layers
    from experiments.__main__ import main
    from rl_unlearn.adapters.adapter import read_adapter

    loop = {"rounds": 40, "checkpoint_every": 1}
    config = tiny.config(loop=loop, output=str(tmp_path), tensorboard=False)
    file = tmp_path / "tiny.yaml"
    file.write_text(layers.dump(config))
    argv = ["train", "--config", str(file), "--no-evaluate", "--name"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *argv, "killed"], stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 300
    while (
        not list(checkpoints.glob("round-*"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(checkpoints.glob("round-*")), "there is something to go on from"
    state = tmp_path / "killed" / "run_state.json"
    before = json.loads(state.read_text())
    assert before["state"] != "finished"
    state.write_text(json.dumps(before | {"trial": {"label": "one of a sweep"}}))
    # Asked to start again by the same command, as a cluster would; and with another configuration,
    # which is refused.
    assert main([*argv, "killed", "--resume", "auto", "learner.lr=0.5"]) == 2
    assert "learner.lr (0.003 before, 0.5 now)" in capsys.readouterr().err
    assert main([*argv, "killed", "--resume", "auto"]) == 0
    assert main([*argv, "straight"]) == 0
    killed, straight = read_adapter(tmp_path / "killed"), read_adapter(tmp_path / "straight")
    assert all(torch.equal(killed[name], straight[name]) for name in straight)
    rows = [
        json.loads(line)
        for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    ]
    rounds = [row for row in rows if row["event"] == "round"]
    assert [row["round"] for row in rounds] == list(range(1, 41)), "no gap and no repetition"
    assert [row["phase"] for row in rows if row["event"] == "phase"].count("restoring") == 1
    assert (tmp_path / "killed" / LEDGER).read_bytes() == (
        tmp_path / "straight" / LEDGER
    ).read_bytes()
    assert json.loads(state.read_text())["trial"] == {"label": "one of a sweep"}
    assert main(["resume", str(tmp_path / "killed"), "--no-evaluate", "loop.rounds=41"]) == 0
    assert len((tmp_path / "killed" / LEDGER).read_text().splitlines()) == 41
    ledger = tmp_path / "straight" / LEDGER
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[1:]))
    assert main(["resume", str(tmp_path / "straight"), "--no-evaluate", "loop.rounds=41"]) == 5
    assert "does not hold the 40 updates" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "killed"), "--no-evaluate"]) == 0
    assert "is finished; raise loop.rounds" in capsys.readouterr().err
    assert main(["resume", str(tmp_path)]) == 5
    assert "holds no run to resume" in capsys.readouterr().err
