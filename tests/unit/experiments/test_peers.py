"""The benchmarks beside the peers: ratios, turns, processes that serve, and the file, without any
figure of speed.
"""

import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401

from experiments.benchmarks import attainable, contest, limit, loop, pairs, peer_packages, peers
from experiments.benchmarks.cost import Clock, Cost
from experiments.benchmarks.workers import Worker
from learner.events import Event
from rl_unlearn.errors import ConfigError, MachineError, TrainingError

_SERVES = """
from experiments.benchmarks.cost import Cost
from experiments.benchmarks.workers import serve

def work(images):
    print("a library prints this")
    return Cost(images, 2.0, 4.0)

def fail():
    raise ValueError("too little of it")

serve({"work": work, "fail": fail})
"""


def _pair(ours: float, theirs: float) -> pairs.Pair:
    return {"round": {"ours": Cost(8, 1.0, ours), "theirs": Cost(8, 2.0, theirs)}}


def test_ratios_are_those_of_each_pair() -> None:
    """The median of the ratios, which is not the ratio of the medians."""
    taken = [_pair(1.0, 2.0), _pair(10.0, 10.0), _pair(4.0, 1.0)]
    ratio = pairs.ratios(taken, "round", "ours", "theirs")
    assert ratio["images_per_cpu_second"] == {"median": 1.0, "smallest": 0.25, "largest": 2.0}
    assert ratio["images_per_second"] == {"median": 2.0, "smallest": 2.0, "largest": 2.0}
    assert "1.00 times (0.25 to 2.00)" in pairs.shown(ratio)
    assert pairs.rates(taken)["round"]["ours"]["images_per_cpu_second"]["median"] == 2.0
    assert pairs.fastest(taken, "round", ["ours", "theirs"], "images_per_cpu_second") == "theirs"
    assert pairs.fastest(taken, "round", ["ours", "theirs"], "images_per_second") == "ours"


def test_rows_are_read_back_as_they_were() -> None:
    row = json.loads(json.dumps(pairs.rows([_pair(1.0, 2.0)])))[0]
    assert Cost(**row["round"]["theirs"]) == Cost(8, 2.0, 2.0)


def test_cpu_seconds_of_started_processes_count() -> None:
    clock = Clock()
    busy = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        while clock.read(1).cpu_seconds < 0.2:
            time.sleep(0.05)
    finally:
        busy.kill()
        busy.wait()


@pytest.fixture
def served(tmp_path: Path) -> Worker:
    (tmp_path / "serving.py").write_text(_SERVES)
    return Worker("serving", [], tmp_path / "log", [tmp_path])


def test_a_worker_answers_with_costs_and_errors(served: Worker, tmp_path: Path) -> None:
    assert served("work", images=8) == Cost(8, 2.0, 4.0)
    with pytest.raises(TrainingError, match="serving: fail: ValueError: too little of it: see"):
        served("fail")
    assert served("work", images=3).images == 3
    served.close()
    text = (tmp_path / "log").read_text()
    assert text.count("a library prints this") == 2
    assert "Traceback" in text
    with pytest.raises((TrainingError, ValueError)):
        served("work", images=8)


def _contest(calls: list[str]) -> contest.Contest:
    def worker(name: str) -> Worker:
        def call(task: str, **arguments: int) -> Cost:
            calls.append(" ".join([name, task, *(f"{k}={v}" for k, v in arguments.items())]))
            return Cost(24, 1.0, 24.0 / arguments.get("size", 24))

        return cast(Worker, call)

    workers = worker("ours"), worker("bare"), worker("trl")
    return contest.Contest(workers, [8, 24, 64], [8, 24], [1, 2])


def test_pairs_take_turns_in_both_orders() -> None:
    calls: list[str] = []
    there = _contest(calls)
    there.pair(1, ["rollout", "round"])
    forth = ["bare diffusers", "ours rollout", "trl rollout"]
    last = ["ours round", "trl epoch size=24 threads=1", "trl epoch size=24 threads=2"]
    assert calls == [*forth, *last]
    calls.clear()
    there.pair(2, ["rollout", "round"])
    assert calls == [*forth[::-1], *last[::-1]]
    calls.clear()
    there.warm_up(contest.PARTS)
    assert "ours round" not in calls, "our loop warms up by itself"
    assert len(calls) == 3 + 5 + 2


def test_each_is_compared_at_its_best() -> None:
    there = _contest([])
    taken = [there.pair(number, contest.PARTS) for number in (1, 2)]
    compared = [(row["part"], row["ours"], row["other"]) for row in there.ratios(taken)]
    assert compared == [
        ("rollout", "rl-unlearn", "trl"),
        ("rollout", "rl-unlearn", "diffusers"),
        ("learner", "rl-unlearn, 8 at once", "trl, 8 at once"),
        ("learner", "rl-unlearn, 24 at once", "trl, 24 at once"),
        ("learner", "rl-unlearn, 64 at once", "trl, 24 at once"),
        ("round", "rl-unlearn", "trl, 24 at once"),
        ("round", "rl-unlearn", "trl, 24 at once, 2 threads"),
    ]


def test_the_peer_is_installed_once_and_without_its_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], code: int, **_: Any) -> Any:
        asked.append(command)
        Path(command[command.index("--target") + 1]).mkdir()
        return SimpleNamespace(returncode=code, stderr="looking\nERROR: no such version\n")

    monkeypatch.setattr(peer_packages.subprocess, "run", partial(pip, code=1))
    with pytest.raises(MachineError, match=r"trl==0\.23\.1 cannot be installed: ERROR: no such"):
        peer_packages.installed(tmp_path / "peers")
    monkeypatch.setattr(peer_packages.subprocess, "run", partial(pip, code=0))
    place = peer_packages.installed(tmp_path / "peers")
    assert peer_packages.installed(tmp_path / "peers") == place == tmp_path / "peers/trl-0.23.1"
    assert len(asked) == 2, "a folder that is there is taken as it is"
    assert "--no-deps" in asked[-1]
    assert [*(tmp_path / "peers").iterdir()] == [place], "nothing half done is left"


def test_what_is_asked_wrongly_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "peers.json")]
    assert peers.main([*out, "--sizes", "7"]) == 2
    assert "name at least one that divides a round of 24 images" in capsys.readouterr().err
    for wrong in (["--parts", "learn"], ["--tiny"], ["--sizes", "eight"]):
        with pytest.raises(SystemExit):
            peers.main([*out, *wrong])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that tells of its rounds and computes nothing."""

    def train(config: Any, emit: Callable[[Event], None]) -> None:
        for round in range(1, config.loop.rounds + 1):
            emit(tiny.round_event(round))

    monkeypatch.setattr("cluster.program.train", train)


@pytest.mark.usefixtures("trained")
def test_rounds_in_the_middle_count() -> None:
    cost = loop.turn(tiny.config(loop={"rounds": 2 + 6 + 2}, selection={"every": 3}))
    assert cost.images == 6 * 8
    with pytest.raises(ConfigError, match=r"multiple of selection\.every=3"):
        loop.turn(tiny.config(loop={"rounds": 2 + 5 + 2}, selection={"every": 3}))


@pytest.mark.usefixtures("trained")
def test_the_loop_writes_every_turn(tmp_path: Path) -> None:
    out = tmp_path / "loop.json"
    assert loop.main(["--turns", "2", "--rounds", "4", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert (
        written["command"]
        == f"python -m experiments.benchmarks.loop --turns 2 --rounds 4 --out {out}"
    )
    assert written["cores"] > 0 < len(written["packages"])
    assert len(written["turns"]) == 2
    assert {*written["rates"]} == {*loop.MODES} == {*written["turns"][0]["loop"]}
    assert all(cost["images"] == 4 * 24 for cost in written["turns"][1]["loop"].values())


def test_products_are_counted_with_the_gradients_that_a_pass_needs() -> None:
    """A frozen layer's weights have none, and the first layer's input needs none."""
    first, second = torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.Linear(4, 5)
    network, images = torch.nn.Sequential(first, second), torch.randn(2, 2, 4, 4)
    forward = 2 * 2 * 16 * 3 * 2 * 9 + 2 * 2 * 3 * 4 * 4 * 5
    with torch.no_grad():
        assert attainable.products(network, lambda: network(images)).flops == forward
    first.requires_grad_(False)
    # The second layer's weights have a gradient, its input none: nothing before it is trained.
    trained = attainable.products(network, lambda: network(images)).flops
    assert trained == forward + 2 * 2 * 3 * 4 * 4 * 5
    second.requires_grad_(False)
    first.requires_grad_(True)
    whole = attainable.products(network, lambda: network(images)).flops
    assert whole == forward + 2 * 2 * 16 * 3 * 2 * 9 + 2 * 2 * 3 * 4 * 4 * 5


def test_a_round_has_the_flops_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's FLOPs without its warm-up are those of its rounds and three validations more."""
    from experiments.plan import costs, images, stores
    from rl_unlearn.prompts import PromptBook

    config = tiny.config(loop={"rounds": 6, "pipeline": 0}, selection={"every": 1})
    counted, book = limit.planned(config), PromptBook.from_config(config)
    plan = costs.phases(
        counted, images.count(config, book, evaluated=False), stores.kept(config, book)
    )
    work = limit.flops(config, counted)
    assert 6 * work["rollout"] == plan["rollouts"]
    assert 6 * work["learner"] == plan["learner"]
    assert 6 * (work["critic, fit"] + work["critic, score"]) == pytest.approx(plan["critic"])
    assert work["validations"] * images.validations(config) == plan["validations"]


@pytest.mark.usefixtures("quick")
def test_shares_sum_up_a_round() -> None:
    found = limit.shares(limit.measure(tiny.config(), calls=1), large=1e9)
    assert {*found["roles"]} == {
        "rollout",
        "critic, fit",
        "critic, score",
        "learner",
        "validations",
    }
    assert "seconds" not in found["roles"]["validations"]
    measured = [row for row in found["roles"].values() if "seconds" in row]
    assert found["seconds"] == pytest.approx(sum(row["seconds"] for row in measured))
    for row in measured:
        assert row["of_large_product"] == pytest.approx(row["flops"] / row["seconds"] / 1e9)
        assert row["of_products"] * row["products"] == pytest.approx(row["rate"])
