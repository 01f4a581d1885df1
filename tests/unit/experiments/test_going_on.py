"""Going on with a finished run: what cannot be gone on with stays as it is, and no other run's
checkpoint is taken.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from kill_steps import contents

import experiments.run
from experiments import settings
from experiments.__main__ import main
from experiments.runs.ledger import LEDGER
from experiments.runs.manifest import MANIFEST, PARTS
from learner import events
from learner.events import Emit
from rl_unlearn.adapters.adapter import read_adapter
from rl_unlearn.errors import NoRoomError


def trained(output: Path, name: str, *overrides: str) -> Path:
    config = tiny.config(
        output=str(output), tensorboard=False, loop={"rounds": 2, "checkpoint_every": 1}
    )
    file = output / "tiny.yaml"
    file.write_text(settings.dump(config))
    assert main(["train", "--config", str(file), "--no-evaluate", "--name", name, *overrides]) == 0
    return output / name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds with both checkpoints."""
    return trained(tmp_path_factory.mktemp("finished"), "r")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "r"))


def records(run: Path) -> dict[str, bytes]:
    """All that a run folder holds but its checkpoints, which may be put aside."""
    return {
        name: content
        for name, content in contents(run).items()
        if not name.startswith("checkpoints/")
    }


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]


def add(name: str, line: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes() + line)


def flip(name: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(flipped(content, content.index(b":")))

    return change


def state(**changes: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        there = json.loads((run / "run_state.json").read_text())
        (run / "run_state.json").write_text(json.dumps(there | changes))

    return change


def spoil(run: Path) -> None:
    for file in run.glob("checkpoints/round-*/learner.safetensors"):
        file.write_bytes(flipped(file.read_bytes(), 500))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (add("metrics.jsonl", b"5\n"), r"metrics.jsonl, line \d+, holds no JSON object"),
        (add("metrics.jsonl", b'{"round": 1}\n'),
         r"metrics.jsonl, line \d+, is damaged (event: field required)"),
        (add("metrics.jsonl", b'{"event": "round", "round": "2"}\n'),
         "(round: input should be a valid integer)"),
        (flip("metrics.jsonl"), "metrics.jsonl, line 1, holds no JSON object"),
        (add(LEDGER, b"null\n"), "ledger.jsonl, line 3, holds no JSON object"),
        (add(LEDGER, b'{"update": 3}\n'), "ledger.jsonl, line 3, is damaged (version_in: field "
                                          "required)"),
        (add(LEDGER, b'{"update": 3, "version_in": 2, "version_out": 3, "round": 2}\n'),
         "not hold the 2 updates"),
        (flip(LEDGER), "ledger.jsonl, line 1, holds no JSON object"),
        (state(training=5), "run_state.json is damaged (training:"),
        (state(configs="x"), "run_state.json is damaged (configs:"),
        (state(begun="yes"), "run_state.json is damaged (begun:"),
        (spoil, "is whole: start the run anew"),
    ],
)  # fmt: skip
def test_damaged_records_are_named_and_nothing_is_changed(
    run: Path, damage: Callable[[Path], object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    before = records(run)
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=9"]) == 5
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(part in line for part in told.replace(r"\d+", "|").split("|")), line
    assert records(run) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoRoomError("no room"), 3),
        (ZeroDivisionError("x"), 4),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 4),
    ],
)
@pytest.mark.parametrize(
    "phases", [(), ("waiting for room", "starting actors"), ("starting actors", "restoring")]
)
def test_what_ends_before_training_goes_on_leaves_a_finished_run_finished(
    run: Path,
    error: BaseException,
    code: int,
    phases: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(config: Any, emit: Emit, *_: Any, **__: Any) -> None:
        for phase in phases:
            emit(events.Phase(phase=phase))
        emit(events.Warning(message="a warning"))
        raise error

    monkeypatch.setattr(experiments.run, "train", fail)
    before = contents(run)
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=9"]) == code
    assert contents(run) == before
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=9", "learner.lr=0.5"]) == 2
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=nine"]) == 2
    assert contents(run) == before


def test_what_fails_after_training_went_on_is_on_record(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Any, emit: Emit, *_: Any, **__: Any) -> None:
        emit(events.Phase(phase="restoring"))
        emit(events.Phase(phase="training, cat -> dog"))
        raise NoRoomError("lost")

    monkeypatch.setattr(experiments.run, "train", fail)
    looks = [row for row in rows(run / "metrics.jsonl") if row.get("final")]
    assert looks
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=9"]) == 3
    now = json.loads((run / "run_state.json").read_text())
    assert (now["state"], now["reason"]) == ("failed", "lost")
    found = rows(run / "metrics.jsonl")
    assert not [row for row in found if row.get("final")]
    assert [row["phase"] for row in found[-2:]] == ["restoring", "training, cat -> dog"]
    monkeypatch.undo()
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 0


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_that_a_crash_cut_is_left_out_and_line_ends_of_other_kinds_are_text(
    run: Path,
) -> None:
    add(
        "metrics.jsonl",
        '{"event": "warning", "message": "one\u2028two\u0085three"}\n{"event": "rou'.encode(),
    )(run)
    add(LEDGER, b'{"update": 3, "ver')(run)
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 0
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert [row["message"] for row in found if row["event"] == "warning"] == [
        "one\u2028two\u0085three"
    ]
    assert [row["update"] for row in rows(run / LEDGER)] == [1, 2, 3]


def test_another_runs_checkpoint_is_put_aside(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = Path(shutil.copytree(run, tmp_path / "longer"))
    assert main(["resume", str(longer), "--no-evaluate", "loop.rounds=3"]) == 0
    other = trained(tmp_path, "other", "seed=5", "loop.rounds=4")
    source, target = other / "checkpoints" / "round-000004", run / "checkpoints" / "round-000004"
    shutil.copytree(source, target)
    (warm_up,) = (other / "checkpoints").glob("warm-up-*")
    shutil.copy(warm_up, run / "checkpoints")
    capsys.readouterr()
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 0
    assert (
        "round-000004 is damaged (it is another run's: made with another configuration)"
        in capsys.readouterr().err
    )
    assert contents(run / "checkpoints" / "quarantine-round-000004") == contents(source)
    ours, theirs = read_adapter(run), read_adapter(longer)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (run / LEDGER).read_bytes() == (longer / LEDGER).read_bytes()


def test_a_checkpoint_whose_weights_are_not_the_ledgers_is_put_aside(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = rows(run / LEDGER)
    changed = [told[0], told[1] | {"weights": "0" * 64}]
    (run / LEDGER).write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 0
    assert "the ledger knows other weights of update 2" in capsys.readouterr().err
    assert rows(run / LEDGER)[:2] == told, "the update is made once more"


def test_a_checkpoint_of_an_earlier_version_is_refused_and_stays(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in run.glob("checkpoints/round-*"):
        manifest = json.loads((folder / MANIFEST).read_text())
        assert {"configuration", "updates"} <= manifest.keys()
        (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 3}))
    before = contents(run)
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 5
    assert "is of format 3, made by an earlier version" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"format": 5, "round": 2}', b"[]", b'{"format": "x"}', b"\xff"]
)
def test_a_hostile_manifest_does_not_hide_the_checkpoint_before(
    run: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints" / "round-000002" / MANIFEST).write_bytes(content)
    assert main(["resume", str(run), "--no-evaluate", "loop.rounds=3"]) == 0
    assert "round-000002 is damaged" in capsys.readouterr().err
    assert len(PARTS) + 1 == len(list((run / "checkpoints" / "quarantine-round-000002").iterdir()))
