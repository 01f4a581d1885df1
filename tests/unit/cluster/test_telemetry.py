"""What Prometheus is told: by which events, under which names, and that nothing of it can end a
run.
"""

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import tiny
from ray_metrics import FROM_RAY
from rich.console import Console
from tiny import quick  # noqa: F401

from cluster import connection, program, telemetry
from cluster.metric_table import METRICS, PREFIX
from cluster.telemetry import Telemetry
from experiments.runs.progress import make_progress
from experiments.runs.recorder import Recorder
from experiments.runs.run_folder import RunFolder
from learner.events import Dashboard, Event, Round
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError, TrainingError

ROUND = {
    "round": 1, "rounds": 3, "images": 40, "seconds": 2.0, "images_per_second": 20.0,
    "policy_version": 1, "skipped_steps": 2, "kl": 0.25,
    "reward": 1.5, "grad_norm": float("nan"), "ess": 0.5, "explained_variance": [0.0, 0.5],
    "replay": {"held": 16, "added": 16, "evicted_stale": 0},
}  # fmt: skip


class Fake:
    """A metric that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[float, tuple[tuple[str, str], ...]]] = []

    def _take(self, value: float, tags: dict[str, str]) -> None:
        self.said.append((value, tuple(tags.items())))

    set = inc = observe = _take


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    made: dict[str, Fake] = {}
    monkeypatch.setattr(telemetry, "_made", lambda metric: made.setdefault(metric.name, Fake()))
    return made


def run_of(name: str = "r") -> Telemetry:
    return Telemetry(tiny.config(name=name))


def test_names_follow_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("rl_unlearn_")
        assert metric.name.endswith("_total") == (metric.kind in ("total", "more"))
        assert metric.description


def test_a_round_is_published(fakes: dict[str, Fake]) -> None:
    assert run_of().take("round", ROUND) is None
    said = {name.removeprefix("rl_unlearn_"): fake.said for name, fake in fakes.items()}
    tags = (("run", "r"),)
    assert said["kl_nats_per_step"] == [(0.25, tags)]
    assert said["images_total"] == [(40, tags)]
    assert said["replay_trajectories"] == [(16, tags)]
    assert said["critic_explained_variance"] == [
        (0.0, (*tags, ("level", "0"))),
        (0.5, (*tags, ("level", "1"))),
    ]
    assert said["nonfinite_values_total"] == [(1, (*tags, ("value", "grad_norm")))]
    assert "gradient_norm" not in said or not said["gradient_norm"]
    assert not said.get("selection_score")


def test_totals_grow_by_the_difference_and_never_shrink(fakes: dict[str, Fake]) -> None:
    run = run_of()
    for images, skipped in ((40, 2), (100, 1), (70, 0), (90, 0)):
        run.take("round", ROUND | {"images": images, "skipped_steps": skipped})
    assert [value for value, _ in fakes["rl_unlearn_images_total"].said] == [40, 60, 20]
    assert [value for value, _ in fakes["rl_unlearn_skipped_steps_total"].said] == [2, 1]


def test_rounds_are_timed_from_the_second_on(fakes: dict[str, Fake]) -> None:
    run = run_of()
    run.take("round", ROUND)
    run.take("round", ROUND | {"seconds": 7.5})
    assert [value for value, _ in fakes["rl_unlearn_round_seconds"].said] == [5.5]


def test_many_levels_are_thinned_out(fakes: dict[str, Fake]) -> None:
    run_of().take("round", ROUND | {"critic_correlation": [i / 1000 for i in range(1001)]})
    said = fakes["rl_unlearn_critic_correlation"].said
    assert len(said) == telemetry.LEVELS
    assert all(value == int(dict(tags)["level"]) / 1000 for value, tags in said)


def test_gauges_are_set_again(fakes: dict[str, Fake]) -> None:
    run = run_of()
    run.take("round", ROUND)
    run.repeat()
    assert len(fakes["rl_unlearn_kl_nats_per_step"].said) == 2
    assert len(fakes["rl_unlearn_images_total"].said) == 1


def test_trouble_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("no agent")

    monkeypatch.setattr(telemetry, "_made", fail)
    heard: list[tuple[str, dict[str, Any]]] = []
    with telemetry.published(tiny.config(), tiny.into(heard)) as emit:
        emit(Round.model_validate(ROUND))
        emit(Round.model_validate(ROUND))
    assert [event for event, _ in heard] == ["warning", "round", "round"]
    assert "no agent" in heard[0][1]["message"]


@pytest.mark.usefixtures("quick")
def test_inline_runs_publish_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("an inline run has no Ray to publish on")

    monkeypatch.setattr(telemetry, "published", fail)
    program.train(tiny.config(loop={"rounds": 1}), lambda *_: None)


def scrape() -> str:
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@contextlib.contextmanager
def connected(config: Config) -> Iterator[str | None]:
    """`ray_cluster`, tried again: on a busy machine Ray gives its own processes too little time to
    start.
    """
    with contextlib.ExitStack() as stack:
        for attempt in range(5):
            try:
                url = stack.enter_context(connection.ray_cluster(config))
                break
            except MachineError:
                if attempt == 4:
                    raise
        yield url


@pytest.mark.slow
def test_the_nodes_endpoint_serves_them_all(tmp_path: Path) -> None:
    """A whole run on a private Ray; its node is asked when the run ends."""
    served: dict[str, str] = {}
    warnings = []
    absent = {"warnings", "restarts", "nonfinite_values", "skipped_steps", "replay_repeated",
              "replay_evicted_stale",
              "replay_evicted_capacity"}  # fmt: skip  # nothing of the kind happens here
    wanted = {metric.name for metric in METRICS} - {f"rl_unlearn_{name}_total" for name in absent}

    def emit(said: Event) -> None:
        event, row = said.name, said.row()
        if event == "warning":
            warnings.append(row)
        if event == "phase" and row["phase"] == "done":
            until = time.monotonic() + 120
            while time.monotonic() < until and not served.keys() >= wanted | FROM_RAY:
                time.sleep(1)
                said = ""
                with contextlib.suppress(OSError):  # a busy machine answers late
                    said = scrape()
                for line in said.splitlines():
                    name = line.partition("{")[0]
                    if name in FROM_RAY:
                        served[name] = line
                    if line.startswith(PREFIX + "rl_unlearn_"):
                        name = line.partition("{")[0].removeprefix(PREFIX)
                        for end in ("_bucket", "_sum", "_count"):
                            name = name.removesuffix(end)
                        served[name] = line

    config = tiny.config(
        name="seen",
        output=str(tmp_path),
        loop={"rounds": 3, "timeout": 600.0, "heartbeat": 300.0},
        cluster={"inline": False, "actor_cpus": 0.1},
    )
    with connected(config):
        program.train(config, emit)
    assert set(served) >= wanted | FROM_RAY
    assert all('run="seen"' in line for name, line in served.items() if name not in FROM_RAY)
    assert served["rl_unlearn_updates_total"].endswith(" 3.0")
    assert not warnings


def test_a_run_tells_the_dashboard_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        connection, "ray_cluster", lambda _: contextlib.nullcontext("http://127.0.0.1:8265")
    )
    monkeypatch.setattr(program, "_ray_actors", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(telemetry, "published", lambda _, emit: contextlib.nullcontext(emit))
    monkeypatch.setattr(program, "Loop", lambda *_: (_ for _ in ()).throw(TrainingError("enough")))
    heard = []
    with pytest.raises(TrainingError, match="enough"):
        program.train(tiny.config(cluster={"inline": False}), tiny.into(heard))
    assert heard == [
        ("dashboard", {"url": "http://127.0.0.1:8265"}),
        ("phase", {"phase": "waiting for room"}),
    ]


def test_the_dashboard_is_printed_and_on_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recorder(RunFolder(tmp_path), make_progress(Console(stderr=True))) as record:
        record(Dashboard(url="http://127.0.0.1:8265"))
    assert "dashboard: http://127.0.0.1:8265" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "run_state.json").read_text())["dashboard"]
        == "http://127.0.0.1:8265"
    )


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [False, True])
def test_a_private_cluster_has_a_dashboard_only_when_asked_and_on_loopback(wanted: bool) -> None:
    with connected(tiny.config(cluster={"inline": False, "dashboard": wanted})) as url:
        assert (url or "").startswith("http://127.0.0.1:") == wanted
        if url is not None:
            with pytest.raises(
                HTTPError
            ) as refused:  # it is there, and lets nobody in who has no token
                urllib.request.urlopen(f"{url}/api/version", timeout=60)
            assert refused.value.code == 401
