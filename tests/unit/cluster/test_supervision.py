"""Supervision without Ray: when a run goes on, from where, how often, and what stays on record of
it.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import quick  # noqa: F401

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from cluster import program, supervision
from cluster.supervision import supervised
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.ledger import LEDGER, verify
from experiments.runs.progress import Lines
from experiments.runs.recorder import Recorder
from experiments.runs.run_folder import RunFolder
from learner.learner import Learner
from learner.loop import Result
from learner.roles import Resumption
from learner.rollouts import MAX_POISONED
from rl_unlearn.errors import (
    DataError,
    LostError,
    MachineError,
    NonFiniteError,
    NoRoomError,
    TrainingError,
)
from rl_unlearn.messages import Request
from rl_unlearn.noise import generator
from rl_unlearn.states import choose
from rl_unlearn.trajectory import Trajectory

pytestmark = pytest.mark.usefixtures("quick")

DONE = Result({}, 0, "", None, 0, 0, 0.0)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody sleeps; the pauses asked for."""
    asked: list[float] = []
    monkeypatch.setattr("cluster.supervision.time.sleep", asked.append)
    return asked


class Start(NamedTuple):
    """What a run goes on from: no more than its numbers."""

    round: int
    newest_round: int = 0


class Kept:
    """A store of checkpoints that are only numbers."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def newest(self, warn: Any) -> Any:
        return (
            (self.rounds[-1], Start(self.rounds[-1], self.rounds[-1] + 1)) if self.rounds else None
        )


def follow(
    outcomes: list[Any], store: Any = None, restarts: int = 2, start: Any = None
) -> tuple[Any, Any, Any]:
    """Supervises attempts that go as told; their starts, the events, and the result or error."""
    starts, events = [], []

    def attempt(start: Resumption | None) -> Result:
        starts.append(start)
        outcome = outcomes[len(starts) - 1]
        if isinstance(outcome, tuple):
            store.rounds.append(outcome[0])
            outcome = outcome[1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    try:
        result: Any = supervised(attempt, restarts, tiny.into(events), store, start)
    except Exception as error:
        result = error
    return starts, events, result


def test_a_loss_leads_back_to_the_newest_checkpoint(pauses):
    lost = LostError("CriticActor was lost: killed")
    starts, events, result = follow([lost, (4, lost), lost, DONE], Kept())
    assert starts == [None, None, Start(4, 5), Start(4, 5)]
    assert result is DONE
    assert [(name, row["round"], row["newest_round"], row["cause"]) for name, row in events] == [
        ("restart", round, newest, str(lost)) for round, newest in ((0, 0), (4, 5), (4, 5))
    ]
    assert events[2][1]["message"] == f"{lost}; goes on from round 4 in 2 s (restart 2 of 2)"
    assert pauses == [1, 1, 2], "twice the pause each time, and short again after a new checkpoint"


def test_a_run_that_does_not_get_on_is_given_up(pauses):
    starts, _, error = follow([LostError(f"cause {n}") for n in range(9)], Kept())
    assert len(starts) == 3
    assert isinstance(error, TrainingError)
    assert str(error) == "given up after 2 restarts from round 0: cause 2"
    assert str(follow([LostError("at once")], restarts=0)[2]) == "at once"
    follow([LostError("again")] * 12, restarts=10)
    assert max(pauses) == supervision._LONGEST_PAUSE


def test_what_was_resumed_is_resumed_again_without_a_keeper():
    given = Start(3)
    assert follow([LostError("x"), DONE], None, start=given)[0] == [given, given]


def test_numbers_that_are_not_finite_are_tried_once_more(pauses):
    starts, events, error = follow([NonFiniteError("nan")] * 9, Kept(), restarts=5)
    assert len(starts) == 2
    assert len(events) == 1
    assert str(error) == "given up after 1 restarts from round 0: nan"


@pytest.mark.parametrize(
    "error", [DataError("no model"), MachineError("full disk"), ValueError("a bug")]
)
def test_what_would_happen_again_is_raised_at_once(error):
    starts, events, result = follow([error])
    assert result is error
    assert not events
    assert len(starts) == 1


@pytest.mark.parametrize("error", [MachineError("full disk"), DataError("no model")])
def test_a_loss_before_makes_no_other_error_worth_a_restart(error):
    starts, _, result = follow([LostError("node"), error])
    assert result is error
    assert len(starts) == 2


def test_a_cluster_without_room_after_a_loss_is_waited_for():
    starts, _, result = follow([LostError("node"), NoRoomError("no room"), DONE])
    assert result is DONE
    assert len(starts) == 3


# -- a whole run, in one process -------------------------------------------------------------------


def run(folder: Path, config: Any, console: Any) -> Any:
    folder.mkdir(exist_ok=True)
    store = Checkpoints(folder, config.loop.checkpoint_every, config.loop.checkpoints)
    with Recorder(RunFolder(folder), Lines(console)) as recorder:
        return program.train(config, recorder, store=store)


class Told:
    """A console that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, text: str, **_: Any) -> None:
        self.lines.append(text)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_and_ledger_of_a_restarted_run_are_those_of_an_undisturbed_one(
    tmp_path, monkeypatch
):
    config = tiny.config(loop={"rounds": 4, "checkpoint_every": 2})
    straight = run(tmp_path / "straight", config, Told())
    original, calls = Learner.update, []

    def update(self: Learner, *args: Any) -> Any:
        calls.append(args[-1])
        if len(calls) == 4:
            raise LostError("Learner was lost: killed")
        return original(self, *args)

    monkeypatch.setattr(Learner, "update", update)
    told = Told()
    restarted = run(tmp_path / "restarted", config, told)
    assert calls == [0, 1, 2, 3, 2, 3]
    assert restarted.digest == straight.digest
    assert (
        "warning: Learner was lost: killed; goes on from round 2 in 1 s (restart 1 of 5)"
        in told.lines
    )
    assert (tmp_path / "restarted" / LEDGER).read_bytes() == (
        tmp_path / "straight" / LEDGER
    ).read_bytes()
    verify(tmp_path / "restarted" / LEDGER, 4)
    found = rows(tmp_path / "restarted" / "metrics.jsonl")
    assert [row["round"] for row in found if row["event"] == "round"] == [1, 2, 3, 4]
    assert [row["cause"] for row in found if row["event"] == "restart"] == [
        "Learner was lost: killed"
    ]


def test_the_ledger_names_each_update(tmp_path):
    run(tmp_path, tiny.config(), Told())
    found = rows(tmp_path / LEDGER)
    assert [(row["update"], row["round"], row["version_in"],
             row["version_out"]) for row in found] == [
        (1, 1, 0, 1), (2, 2, 1, 2), (3, 3, 2, 3)
    ]  # fmt: skip
    assert [row["trajectories"] for row in found] == [8, 8, 8]
    assert len({row["batch"] for row in found}) == len({row["weights"] for row in found}) == 3


@pytest.mark.parametrize("lines", [[1, 2], [1, 3, 3], [1, 2, 2, 3], [2, 1, 3], [1, 2, 3, 4], []])
def test_a_ledger_with_a_gap_or_a_repetition_is_refused(tmp_path, lines):
    path = tmp_path / LEDGER
    path.write_text(
        "".join(
            json.dumps({"update": n, "version_in": n - 1, "version_out": n}) + "\n" for n in lines
        )
    )
    with pytest.raises(DataError, match="does not hold the 3 updates"):
        verify(path, 3)


# -- numbers that are not finite -------------------------------------------------------------------


def poison(
    monkeypatch: pytest.MonkeyPatch, rounds: set[int], positions: slice, field: str, forever: bool
) -> None:
    """Rollouts of these rounds come with NaN in one of their fields, the first time or always."""
    original, seen = RolloutActor.sample, set()

    def sample(self: RolloutActor, request: Any, weights: Any) -> Trajectory:
        found = original(self, request, weights)
        if request.round not in rounds or (not forever and request.round in seen):
            return found
        seen.add(request.round)
        spoiled = getattr(found, field).clone()
        spoiled[positions] = math.nan
        return dataclasses.replace(found, **{field: spoiled})

    monkeypatch.setattr(RolloutActor, "sample", sample)


@pytest.mark.parametrize("field", ["rewards", "outcomes", "log_probs", "latents"])
def test_what_is_not_finite_is_refused_counted_and_kept(tmp_path, monkeypatch, field):
    poison(monkeypatch, {2}, slice(0, 3), field, forever=True)
    learned: list[int] = []
    original = Learner.update
    monkeypatch.setattr(
        Learner,
        "update",
        lambda self, trajectory, scores, v: (
            learned.extend(trajectory.ids.tolist()) or original(self, trajectory, scores, v)
        ),
    )
    told = Told()
    result = run(tmp_path, tiny.config(loop={"rounds": 4, "checkpoint_every": 1}), told)
    assert result.updates == 4
    refused = {2 * 2**32 + n for n in range(3)}
    assert not refused & set(learned)
    assert {2 * 2**32 + n for n in range(3, 8)} <= set(learned), "the rest of the round is used"
    (warned,) = [line for line in told.lines if line.startswith("warning")]
    assert "3 of 8 trajectories of round 2 are not finite; refused, kept in" in warned
    kept = load_file(tmp_path / "refused" / "round-000002.safetensors")
    assert set(kept["ids"].tolist()) == refused
    assert kept[field].isnan().any()
    assert [
        row["replay"]["refused"]
        for row in rows(tmp_path / "metrics.jsonl")
        if row["event"] == "round"
    ][-1] == 3


def test_a_poisoned_round_leads_back_once(tmp_path, monkeypatch):
    poison(monkeypatch, {3}, slice(None), "rewards", forever=False)
    config = tiny.config(loop={"rounds": 4, "checkpoint_every": 1})
    told = Told()
    run(tmp_path / "spoiled", config, told)
    assert any(
        "8 of 8 trajectories of round 3 are not finite, 1 rounds in a row" in line
        for line in told.lines
    )
    monkeypatch.undo()
    monkeypatch.setattr("cluster.supervision.time.sleep", lambda seconds: None)
    run(tmp_path / "straight", config, Told())
    assert (tmp_path / "spoiled" / LEDGER).read_bytes() == (
        tmp_path / "straight" / LEDGER
    ).read_bytes()
    found = rows(tmp_path / "spoiled" / "metrics.jsonl")
    assert len([row for row in found if row["event"] == "restart"]) == 1


def test_poison_that_does_not_cease_ends_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, set(range(2, 9)), slice(0, 1), "rewards", forever=True)
    with pytest.raises(
        TrainingError, match=rf"given up after 1 restarts.*{MAX_POISONED} rounds in a row"
    ) as caught:
        run(tmp_path, tiny.config(loop={"rounds": 9, "checkpoint_every": 1}), Told())
    assert caught.value.exit_code == 4


def test_a_warm_up_without_a_finite_image_ends_the_run(monkeypatch):
    poison(monkeypatch, {0}, slice(None), "log_probs", forever=True)
    with pytest.raises(TrainingError, match="8 of 8 trajectories of round 0 are not finite"):
        program.train(tiny.config(), lambda *_: None)


def test_a_critic_without_a_finite_gradient_is_named():
    config = tiny.config()
    warm_up = RolloutActor(config)  # the shapes of a real batch
    batch = warm_up.sample(Request(0, tuple(range(4)), 0), Learner(config).weights())
    critic = CriticActor(config)
    states = choose(batch, 2 * config.critic.fresh, config.critic.renoised, generator("states"))
    before = {name: tensor.clone() for name, tensor in critic.state().weights.items()}
    with pytest.raises(NonFiniteError, match="no gradient of the critic was finite in 2 steps"):
        critic.fit(
            dataclasses.replace(states, outcomes=torch.full_like(states.outcomes, math.nan)), 1
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in critic.state().weights.items())
    fitted = critic.fit(states, 1)
    after = {name: tensor.clone() for name, tensor in critic.state().weights.items()}
    assert critic.fit(states, 1) == fitted, "a repeated call only answers once more"
    assert all(torch.equal(tensor, after[name]) for name, tensor in critic.state().weights.items())
