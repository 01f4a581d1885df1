"""Trackers hear of a run and cannot hurt it: fakes that raise, hang and fall behind, and the real
ones, offline.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from rich.console import Console

from experiments import settings
from experiments.__main__ import main
from experiments.runs import tracking
from experiments.runs.backends import OPENERS
from experiments.runs.progress import make_progress
from experiments.runs.recorder import Recorder
from experiments.runs.run_folder import RunFolder
from experiments.runs.tracking import Tracker, redacted, scalars
from rl_unlearn.errors import ConfigError

METRICS = {
    "kl": 0.5,
    "ess": 0.25,
    "replay": {"held": 8},
    "explained_variance": [0.1],
    "text": "x",
}
PATIENCE = 120.0


class Kept:
    """A backend that keeps what it hears; `broken` says at which call it raises."""

    def __init__(self, broken: int = -1) -> None:
        self.heard: list[Any] = []
        self.broken = broken

    def log(self, numbers: dict[str, float], step: int) -> None:
        if len(self.heard) == self.broken:
            raise SystemExit("server gone: https://me:hunter22@host/ key-123456")
        self.heard.append((step, numbers))

    def close(self, state: str) -> None:
        self.heard.append(state)


def record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, events: int = 3
) -> list[dict[str, Any]]:
    """What metrics.jsonl says of a run with one tracker."""
    monkeypatch.setitem(OPENERS, "wandb", lambda *_: backend() if callable(backend) else backend)
    folder, config = RunFolder(tmp_path), tiny.config(trackers=["wandb"])
    tracker = Tracker("wandb", folder, config)
    with Recorder(folder, make_progress(Console(stderr=True)), trackers=[tracker]) as recorder:
        for number in range(events):
            recorder(tiny.round_event(number + 1, **METRICS))
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def warnings_in(rows: list[dict[str, Any]]) -> list[str]:
    return [row["message"] for row in rows if row["event"] == "warning"]


def test_a_tracker_hears_the_numbers_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Kept()
    rows = record(tmp_path, monkeypatch, backend)
    assert [step for step, _ in backend.heard[:-1]] == [1, 2, 3]
    assert backend.heard[0][1] == {
        "round/rounds": 9.0, "round/images": 8.0, "round/seconds": 1.0,
        "round/images_per_second": 8.0, "round/kl": 0.5, "round/ess": 0.25,
        "round/replay.held": 8.0, "round/explained_variance.00": 0.1,
    }  # fmt: skip
    assert backend.heard[-1] == "finished"
    assert not warnings_in(rows)


def test_the_end_is_told_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, state in ((KeyboardInterrupt(), "stopped"), (ValueError(), "failed")):
        backend = Kept()
        monkeypatch.setitem(OPENERS, "wandb", lambda *_, kept=backend: kept)
        tracker = Tracker("wandb", RunFolder(tmp_path), tiny.config())
        progress = make_progress(Console(stderr=True))
        with pytest.raises(type(error)), Recorder(RunFolder(tmp_path), progress, [tracker]):
            raise error
        assert backend.heard == [state]


def test_one_that_breaks_is_one_warning_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key-123456")
    backend = Kept(broken=1)
    rows = record(tmp_path, monkeypatch, backend, events=50)
    assert sum(row["event"] == "round" for row in rows) == 50
    (message,) = warnings_in(rows)
    assert message == "wandb is off: SystemExit: server gone: https://***@host/ ***"


def test_one_that_cannot_be_opened_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("no route to host")

    rows = record(tmp_path, monkeypatch, refuse)
    assert warnings_in(rows) == ["wandb is off: OSError: no route to host"]
    assert sum(row["event"] == "round" for row in rows) == 3


def test_tensorboard_is_a_tracker_whose_files_are_made_with_the_first_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny.config(tensorboard=True)
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", PATIENCE)
    (tracker,) = tracking.open_trackers(config, RunFolder(tmp_path))
    tracker.close("failed")
    assert not list(tmp_path.iterdir())
    (tracker,) = tracking.open_trackers(config, RunFolder(tmp_path))
    for number in (1, 2):
        tracker.log(scalars("round", METRICS), number)
    tracker.close("finished")
    assert tracker.trouble() is None
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("round/kl")] == [
        (1, 0.5),
        (2, 0.5),
    ]
    assert not tracking.open_trackers(tiny.config(tensorboard=False), RunFolder(tmp_path))


def test_a_tensorboard_that_cannot_write_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    trackers = tracking.open_trackers(tiny.config(tensorboard=True), RunFolder(tmp_path))
    progress = make_progress(Console(stderr=True))
    with Recorder(RunFolder(tmp_path), progress, trackers) as recorder:
        recorder(tiny.round_event(**METRICS))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (message,) = warnings_in(rows)
    assert message.startswith("tensorboard is off: FileExistsError: ")


def test_one_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "WAITING", 5)
    hold = threading.Event()
    start = time.monotonic()
    few = (
        record(tmp_path / "a", monkeypatch, hold.wait, events=3)
        if (tmp_path / "a").mkdir() is None
        else []
    )
    many = (
        record(tmp_path / "b", monkeypatch, hold.wait, events=9)
        if (tmp_path / "b").mkdir() is None
        else []
    )
    hold.set()
    assert time.monotonic() - start < PATIENCE / 4
    assert warnings_in(few) == ["wandb is off: had not written everything 0.2 s after the end"]
    assert warnings_in(many) == ["wandb is off: is 5 events behind"]
    assert sum(row["event"] == "round" for row in many) == 9


def test_a_missing_package_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    file = tmp_path / "c.yaml"
    file.write_text(settings.dump(tiny.config(output=str(tmp_path / "out"), trackers=["mlflow"])))
    assert main(["train", "--config", str(file)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "error: trackers=mlflow: not installed; pip install 'rl-unlearn[tracking]', or leave it out"
    )
    assert not (tmp_path / "out").exists()


def test_trackers_are_named_in_the_configuration() -> None:
    assert settings.load([], ["trackers=wandb,mlflow"]).trackers == ("wandb", "mlflow")
    with pytest.raises(ConfigError, match="trackers"):
        settings.load([], ["trackers=comet"])


def test_secrets_are_taken_out_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-word")
    monkeypatch.setenv("SOME_KEY", "ab")  # too short to tell from text
    assert redacted("a s3cret-word\nat http://u:p@h:5000/x ab") == "a *** at http://***@h:5000/x ab"


def test_scalars_leave_texts_out() -> None:
    assert scalars("selection", {"round": 3, "score": 1, "best": True, "a": [1.0, None, 3],
                                 "b": None, "c": "x"}) == {
        "selection/score": 1.0, "selection/best": 1.0, "selection/a.00": 1.0, "selection/a.02": 3.0,
    }  # fmt: skip


@pytest.mark.slow
def test_mlflow_for_real_and_a_resumed_run_goes_on_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", PATIENCE)
    folder, config = RunFolder(tmp_path / "r"), tiny.config(output=str(tmp_path), name="r")
    folder.path.mkdir()
    for rounds, state in ((range(1, 3), "failed"), (range(3, 5), "finished")):
        tracker = Tracker("mlflow", folder, config)
        for number in rounds:
            tracker.log({"round/kl": float(number), "round/reward": float("nan")}, number)
        tracker.close(state)
        assert tracker.trouble() is None
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("rl-unlearn")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "r")
    assert run.data.params["learner.batch"] == "8"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "round/kl")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0),
    ]  # fmt: skip


@pytest.mark.slow
def test_an_mlflow_server_that_is_down_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter22@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", PATIENCE)
    tracker = Tracker("mlflow", RunFolder(tmp_path), tiny.config())
    tracker.log({"round/kl": 1.0}, 1)
    tracker.close("finished")
    trouble = tracker.trouble()
    assert trouble is not None
    assert trouble.startswith("mlflow is off: ")
    assert "hunter22" not in trouble


@pytest.mark.slow
def test_wandb_for_real_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", PATIENCE)
    folder, config = RunFolder(tmp_path / "r"), tiny.config(output=str(tmp_path), name="r")
    folder.path.mkdir()
    for number in (1, 2):
        tracker = Tracker("wandb", folder, config)
        tracker.log({"round/kl": 0.5}, number)
        tracker.close("finished")
        assert tracker.trouble() is None
    name = (folder / "wandb" / "run-id").read_text().strip()
    written = list((folder / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(written) == 2  # of one run: `wandb sync` joins them
    until = time.monotonic() + PATIENCE  # its own process still writes when all is handed over
    while time.monotonic() < until and not all(
        b"round/kl" in file.read_bytes() for file in written
    ):
        time.sleep(0.5)
    assert all(b"round/kl" in file.read_bytes() for file in written)
    assert "wandb" in sys.modules
