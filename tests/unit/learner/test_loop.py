"""The loop: bit-equal runs, any number of actors, and waits that end."""

import asyncio
import collections
import dataclasses
import gc
import math
import threading
from contextlib import nullcontext
from typing import Any

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401

from actors.critic import CriticActor
from actors.replay import ReplayActor
from actors.rollout import RolloutActor
from cluster import program
from cluster.inline import InlineHandle
from experiments.plan.images import validations
from experiments.runs.checkpoints import Checkpoints
from learner.calls import Calls, awaited
from learner.events import Event
from learner.learner import Learner
from learner.loop import Loop
from learner.roles import Actors
from learner.selection import Selection
from learner.session import Session
from learner.timeline import Timeline
from learner.versions import Candidate, Versions
from rl_unlearn.adapters.adapter import digest, read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, LostError, MachineError, TrainingError
from rl_unlearn.messages import Request, Weights
from rl_unlearn.models.fingerprint import weights_digest
from rl_unlearn.prompts import PromptBook
from rl_unlearn.validation import Validation, summary

pytestmark = pytest.mark.usefixtures("quick")


def train(**changes: Any) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    result = program.train(tiny.config(**changes), tiny.into(events))
    return result, events


def rounds_of(events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for name, row in events if name == "round"]


TIMINGS = ("seconds", "images_per_second")


def without_times(events: list[tuple[str, dict[str, Any]]]) -> str:
    return str(
        [
            (n, {k: v for k, v in row.items() if k not in TIMINGS})
            for n, row in events
            if n != "phase"
        ]
    )


@pytest.mark.parametrize("pipeline", [0, 1])
def test_the_same_seed_gives_the_same_bits(pipeline):
    one, events = train(loop={"pipeline": pipeline})
    other, again = train(loop={"pipeline": pipeline})
    assert one.digest == other.digest == digest(one.adapter)
    assert without_times(events) == without_times(again)
    assert one.policy_version == other.policy_version
    assert one.updates == 3
    # 8 of the warm-up, 3 rounds of 8, looks of 8 in rounds 1 and 3 and at the end.
    assert one.images == 8 + 3 * 8 + 3 * 8
    lags = [row["policy_lag_max"] for row in rounds_of(events)]
    assert lags == [min(pipeline, k) for k in range(3)], (
        "rounds are drawn by the policy of round k - 1 - pipeline"
    )
    assert rounds_of(events)[0]["first_ratio_min"] == rounds_of(events)[0]["first_ratio_max"] == 1.0


def test_the_warm_up_is_told_as_it_goes_on():
    _, events = train(loop={"rounds": 1}, rollout={"batch": 3}, critic={"warmup_steps": 3})
    steps: dict[str, list[tuple[int, int]]] = {}
    for name, row in events:
        if name == "warming-up":
            steps.setdefault(row["step"], []).append((row["done"], row["total"]))
    assert steps == {
        "drawing": [(3, 8), (6, 8), (8, 8)],
        "fitting the critic": [(1, 3), (2, 3), (3, 3)],
    }
    _, events = train(loop={"rounds": 1}, estimator={"name": "terminal"})
    assert {row["step"] for name, row in events if name == "warming-up"} == {"drawing"}


def test_another_seed_gives_other_bits():
    one, other = (tiny.versions(train(seed=seed)[1]) for seed in (0, 1))
    assert len(set(one + other)) == 6


def test_the_number_of_rollout_actors_does_not_matter():
    one, two = (train(rollout={"actors": actors, "batch": 4}) for actors in (1, 2))
    assert tiny.versions(one[1]) == tiny.versions(two[1])
    assert one[0].digest == two[0].digest


class Side:
    """An actor whose one method is another's."""

    def __init__(self, actor: object, name: str, method: Any):
        self._actor = actor
        setattr(self, name, method)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actor, name)


@pytest.mark.parametrize(
    ("mode", "pipeline", "overlaps"), [("sync", 1, True), ("async", 1, True), ("sync", 0, False)]
)
def test_the_next_round_is_drawn_while_the_learner_learns(mode, pipeline, overlaps):
    config = tiny.config(loop={"rounds": 3, "mode": mode, "pipeline": pipeline})
    made, begun = handles(config), collections.defaultdict(asyncio.Event)
    learner, rollout = made.learner._actor, made.rollouts[0]._actor

    async def update(trajectory: object, scores: object, version: int) -> Any:
        if version + 2 <= config.loop.rounds:  # the rounds of this update and of the next one
            await asyncio.wait_for(begun[version + 2].wait(), 60 if overlaps else 1)
        return learner.update(trajectory, scores, version)

    def sample(request: Request, weights: Weights) -> Any:
        begun[request.round].set()
        return rollout.sample(request, weights)

    made = dataclasses.replace(
        made,
        learner=InlineHandle(Side(learner, "update", update)),
        rollouts=[InlineHandle(Side(rollout, "sample", sample))],
    )
    with nullcontext() if overlaps else pytest.raises(TimeoutError):
        assert asyncio.run(Loop(config, made, lambda *_: None).run()).updates == 3


def test_no_round_waits_for_a_validation():
    config = tiny.config(loop={"rounds": 5, "pipeline": 1}, selection={"every": 2})
    made, begun, told = handles(config), collections.defaultdict(asyncio.Event), []
    rollout = made.rollouts[0]._actor

    async def validate(prompts: Any, offset: int, weights: Weights) -> Any:
        if weights.version == 1:  # of round 3: the next two rounds are drawn in the meantime
            await asyncio.wait_for(begun[4].wait(), 60)
            await asyncio.wait_for(begun[5].wait(), 60)
        return rollout.validate(prompts, offset, weights)

    def sample(request: Request, weights: Weights) -> Any:
        begun[request.round].set()
        return rollout.sample(request, weights)

    side = Side(rollout, "sample", sample)
    side.validate = validate
    made = dataclasses.replace(made, rollouts=[InlineHandle(side)])
    asyncio.run(Loop(config, made, tiny.into(told)).run())
    looks = [row["round"] for name, row in told if name == "selection"]
    assert looks == [1, 3, 5, 5], "in the order of the rounds, the last version last"


@pytest.mark.parametrize(("batch", "sizes"), [(None, [4, 4]), (3, [3, 3, 2]), (8, [8])])
def test_a_validation_is_drawn_in_parts_of_a_size_of_its_own(batch, sizes):
    config = tiny.config(loop={"rounds": 1}, selection={"batch": batch})
    made, asked = handles(config), collections.defaultdict(list)
    rollout = made.rollouts[0]._actor

    def validate(prompts: tuple[int, ...], offset: int, weights: Weights) -> Any:
        asked[weights.version].append((offset, prompts))
        return rollout.validate(prompts, offset, weights)

    side = Side(rollout, "validate", validate)
    asyncio.run(Loop(config, dataclasses.replace(made, rollouts=[InlineHandle(side)]), print).run())
    assert asked.keys() == {0, 1}
    for parts in asked.values():
        assert [len(prompts) for _, prompts in parts] == sizes
        assert [offset for offset, _ in parts] == [sum(sizes[:n]) for n in range(len(sizes))]
        assert len({prompt for _, prompts in parts for prompt in prompts}) > 1


def test_versions_are_considered_in_order_once_an_update_has_learned_from_their_rounds():
    events: list[Any] = []
    look = Validation(0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)

    async def scenario() -> None:
        config = tiny.config(selection={"every": 1})
        selection, versions = considering(config, look, events)
        late = asyncio.Event()

        async def slowly() -> Validation:
            await late.wait()
            return look

        async def quickly() -> Validation:
            return look

        running = asyncio.create_task(selection.run(versions))
        for round, answer in enumerate((slowly, quickly, quickly), 1):
            selection.put(Candidate(round, round, named(round)), answer)

        async def considered() -> list[int]:
            for _ in range(20):
                await asyncio.sleep(0)
            assert versions.rounds == len(events)
            return [row["round"] for _, row in events]

        late.set()
        assert await considered() == []
        late.clear()
        await versions.publish(1, named(1), 2)
        assert await considered() == [], "the second one waits for the first one"
        late.set()
        assert await considered() == [1, 2]
        await versions.publish(2, named(2), 3)
        assert await considered() == [1, 2, 3]
        running.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "first"), [("pathwise", "fit"), ("critic", "score"), ("qprop", "score")]
)
def test_a_baseline_has_not_seen_the_outcomes_that_a_gradient_should_have_seen(name, first):
    config = tiny.config(estimator={"name": name}, loop={"rounds": 2})
    made, calls = handles(config), []
    critic = made.critic._actor

    def score(*args: object) -> Any:
        calls.append("score")
        return critic.score(*args)

    def fit(*args: object) -> Any:
        calls.append("fit")
        return critic.fit(*args)

    spied = Side(critic, "score", score)
    spied.fit = fit
    asyncio.run(
        Loop(config, dataclasses.replace(made, critic=InlineHandle(spied)), lambda *_: None).run()
    )
    other = {"fit": "score", "score": "fit"}[first]
    assert calls == [first, other] * 2


@pytest.mark.parametrize("name", tiny.ESTIMATORS)
def test_every_estimator_trains_with_reuse_bit_for_bit(name):
    config = tiny.config(
        estimator={"name": name},
        loop={"rounds": 2},
        learner={"batch": 12, "updates_per_round": 2},
        replay={"max_lag": 6},
    )
    digests = []
    for _ in range(2):
        made, events = handles(config), []
        critic, learner = made.critic._actor._critic, made.learner._actor
        untrained, untouched = weights_digest(critic.state_dict()), learner.weights().digest
        result = asyncio.run(Loop(config, made, tiny.into(events)).run())
        digests.append((learner.weights().digest, result.digest, without_times(events)))
        torch.manual_seed(5)  # the global generator plays no part
        assert learner.weights().digest != untouched
        assert (weights_digest(critic.state_dict()) != untrained) == config.estimator.row.critic
    assert digests[0] == digests[1]
    assert result.updates == 4
    for row in rounds_of(events):
        assert ("critic_loss" in row) == config.estimator.row.critic
        assert row["skipped_steps"] == 0
        numbers = [v for v in row.values() if isinstance(v, float)]
        numbers += [number for v in row.values() if isinstance(v, list) for number in v]
        known = [number for number in numbers if number is not None]
        assert all(math.isfinite(number) for number in known), row
        assert len(known) >= len(numbers) - 6, "of five levels two follow a step that teaches"
    counts = row["replay"]
    assert row["policy_version"] == 4
    assert counts["added"] == counts["held"] + counts["evicted_stale"] + counts["evicted_capacity"]
    assert counts["evicted_capacity"] == 0


def test_a_rollout_carries_what_its_estimator_asks_for():
    for name in tiny.ESTIMATORS:
        config = tiny.config(estimator={"name": name})
        actor, weights = RolloutActor(config), Learner(config).weights()
        found = actor.sample(Request(1, (0, 3, 5), 0), weights)
        assert (found.means is not None) == (name == "qprop")
        assert (found.predicted is not None) == (name == "x0hat")
        assert (found.slopes is not None) == (name == "backprop")
        if found.means is not None:
            # The last step of this sampler has no noise: its action is the mean.
            assert actor._policy.kernel.std[-1] == 0
            assert torch.equal(found.means[:, -1], found.latents[:, -1])
            noise = (found.latents[:, 1:-1] - found.means[:, :-1]) / actor._policy.kernel.std[
                :-1, None, None, None
            ]
            assert noise.std().item() == pytest.approx(1, abs=0.1)
        if found.predicted is not None:
            assert found.predicted.shape == (3, 4)
            torch.testing.assert_close(found.predicted[:, -1], found.rewards, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(found.predicted[:, 0], found.rewards, atol=1e-2)


def test_several_concepts_train_and_are_looked_at_together():
    config = tiny.config(concept="cat,dog", loop={"rounds": 1})
    result, events = train(concept="cat,dog", loop={"rounds": 1})
    assert result.updates == 1
    assert ("phase", {"phase": "training, cat,dog -> fish, fish"}) in events
    actor, weights = RolloutActor(config), Learner(config).weights()

    class Dogs(torch.nn.Module):
        """Sees a dog on every image, in flat style."""

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            one = torch.ones(len(images), 1)
            return {"object": torch.cat([one, 98 * one, one], 1).log() - math.log(100),
                    "style": torch.cat([99 * one, one], 1).log() - math.log(100)}  # fmt: skip

    actor._selection = Dogs()
    prompts = (0, 1, 2, 4)  # two cats, a dog, a fish
    look = summary(PromptBook.from_config(config), prompts, [actor.validate(prompts, 0, weights)])
    assert look.forgotten == 0, "a cat that became a dog is not forgotten where dogs shall be, too"
    assert look.trace == pytest.approx(0.99)
    assert look.presence == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "loop": {"mode": "async", "pipeline": 0, "rounds": 4},
            "learner": {"updates_per_round": 2},
        },
        {"learner": {"batch": 20}, "replay": {"max_lag": 1}},
        {"rollout": {"actors": 2, "batch": 3}},
    ],
    ids=["as it comes", "two updates a round", "more than a round in a batch", "uneven chunks"],
)
def test_async_mode_finishes(changes):
    changes = {**changes, "loop": {"mode": "async", "rounds": 3, **changes.get("loop", {})}}
    result, events = train(**changes)
    rounds = rounds_of(events)
    assert [row["round"] for row in rounds] == list(range(1, changes["loop"]["rounds"] + 1))
    assert result.updates == rounds[-1]["policy_version"]
    limit = tiny.config(**changes).replay.max_lag
    assert all(row["policy_lag_max"] <= limit for row in rounds)


def test_a_cancellation_that_comes_together_with_an_answer_is_not_swallowed():
    async def scenario() -> bool:
        calls = Calls(Actors([], *[tiny.Nobody()] * 3), 600.0)
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(calls.wait(answer, "test"))
        await asyncio.sleep(0)
        answer.set_result("late")
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(scenario())


class Slow:
    """Answers after some seconds, or at once."""

    async def work(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


def test_a_long_wait_is_no_silence_while_another_actor_answers():
    async def scenario() -> float:
        calls = Calls(Actors([], *[tiny.Nobody()] * 3), 1.0)
        one, other = InlineHandle(Slow()), InlineHandle(Slow())

        async def chatter() -> None:
            for _ in range(12):
                await calls.wait(other.work.remote(0.25), "rollout")

        async with asyncio.TaskGroup() as group:
            group.create_task(chatter())
            found = await calls.wait(one.work.remote(2.5), "critic")
        with pytest.raises(
            LostError, match=r"the critic actor gave no answer in 1 s, nor did any other"
        ):
            await calls.wait(one.work.remote(60.0), "critic")
        return found

    assert asyncio.run(scenario()) == 2.5


def test_an_error_that_nobody_waits_for_is_not_told(capfd):
    async def scenario() -> None:
        async def fails() -> None:
            raise ValueError("of no interest")

        awaited(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    gc.collect()
    assert capfd.readouterr().err == ""


def test_selection_keeps_the_best_look():
    result, events = train(loop={"rounds": 5}, selection={"every": 1, "may_lose": 1.0})
    looks = [row for name, row in events if name == "selection"]
    assert len(looks) == 6
    best = max(looks, key=lambda row: row["score"])
    assert result.policy_version == best["policy_version"]
    assert [row["best"] for row in looks] == [
        row["score"] > max([-1.0, *(r["score"] for r in looks[:n])]) for n, row in enumerate(looks)
    ]
    assert looks[-1]["policy_version"] == 5
    assert all(
        0 <= row[k] <= 1
        for row in looks
        for k in ("forgotten", "retained", "coherence", "other", "presence")
    )


def test_no_round_waits_for_a_checkpoint_and_the_run_does(tmp_path):
    begun, written = collections.defaultdict(threading.Event), []

    class Slowly(Checkpoints):
        def commit(self, round: int, parts: Any) -> None:
            if round == 1:
                assert begun[4].wait(60), "round 4 is drawn by the version after the next update"
            super().commit(round, parts)
            written.append(round)

    def sample(self: RolloutActor, request: Request, weights: Weights) -> Any:
        begun[request.round].set()
        return drawn(self, request, weights)

    config = tiny.config(loop={"rounds": 4, "checkpoint_every": 1})
    drawn = RolloutActor.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutActor, "sample", sample)
        program.train(config, lambda _: None, store=Slowly(tmp_path, 1, 9))
    assert written == [1, 2, 3, 4]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path):
    class Full(Checkpoints):
        def commit(self, round: int, parts: Any) -> None:
            raise MachineError("no space left")

    with pytest.raises(MachineError, match="no space left"):
        program.train(tiny.config(), lambda _: None, store=Full(tmp_path, 3, 1))


@pytest.mark.parametrize("liked", [0, 2, 5])
def test_the_run_returns_the_weights_that_were_liked_best(monkeypatch, liked):
    untouched = Learner(tiny.config()).weights().digest

    def seen(_book: object, _prompts: object, parts: list[int]) -> Validation:
        (version,) = set(parts)
        return Validation(float(version == liked), 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)

    monkeypatch.setattr(RolloutActor, "validate", lambda *given: given[-1].version)
    monkeypatch.setattr("learner.selection.summary", seen)
    result, events = train(loop={"rounds": 5}, selection={"every": 1})
    assert result.policy_version == liked
    assert result.digest == digest(result.adapter) == [untouched, *tiny.versions(events)][liked]


def test_what_starts_from_another_adapter_learns_what_to_keep_from_the_untouched_model(monkeypatch):
    config = tiny.config(
        lora={"start": str(tiny.adapter_folder())}, selection={"every": 1}, loop={"rounds": 3}
    )
    calls: list[tuple[str, int, Weights]] = []
    plain: dict[str, Any] = {}
    for method in ("sample", "validate"):
        plain[method] = getattr(RolloutActor, method)

        def told(self: Any, what: Any, *rest: Any, method: str = method, **named: Any) -> Any:
            images = len(what.prompts if method == "sample" else what)
            round = what.round if method == "sample" else -1
            calls.append((f"{method} {round}", images, rest[-1]))
            return plain[method](self, what, *rest, **named)

        monkeypatch.setattr(RolloutActor, method, told)
    events: list[Any] = []
    result = program.train(config, tiny.into(events))

    def drawn(kind: str) -> set[str]:
        return {weights.digest for called, _, weights in calls if called == kind}

    (untouched,) = drawn("sample 0")
    silent = next(weights for called, _, weights in calls if called == "sample 0")
    assert not any(tensor.any() for name, tensor in silent.state.items() if ".lora_B." in name)
    assert drawn("sample 1") == {digest(read_adapter(tiny.adapter_folder()))}
    assert {untouched, digest(read_adapter(tiny.adapter_folder()))} < drawn("validate -1")
    seen = sum(images for called, images, _ in calls if called == "validate -1")
    assert seen == validations(config) * config.selection.images
    assert sum(images for _, images, _ in calls) == result.images
    assert [row["round"] for name, row in events if name == "selection"] == [1, 2, 3, 3]


def test_a_start_that_lost_too_much_gives_way_to_the_untouched_model(monkeypatch):
    config = tiny.config(
        lora={"start": str(tiny.adapter_folder())}, selection={"every": 1}, loop={"rounds": 2}
    )

    def seen(_book: object, _prompts: object, parts: list[bool]) -> Validation:
        kept = 1.0 if all(parts) else 0.0
        return Validation(1.0 - kept, kept, kept, kept, 1.0, 0.0, 1.0)

    def silent(_: object, _prompts: object, _offset: int, weights: Weights) -> bool:
        return not any(t.any() for name, t in weights.state.items() if ".lora_B." in name)

    monkeypatch.setattr(RolloutActor, "validate", silent)
    monkeypatch.setattr("learner.selection.summary", seen)
    events: list[Any] = []
    result = program.train(config, tiny.into(events))
    assert not any(tensor.any() for name, tensor in result.adapter.items() if ".lora_B." in name)
    (said,) = [row["message"] for name, row in events if name == "warning"]
    assert "the untouched model is returned" in said


def named(version: int) -> Weights:
    """Weights that are no more than a name."""
    return Weights(version, {}, f"w{version}")


def considering(
    config: Config, untouched: Validation, events: list[Any]
) -> tuple[Selection, Versions]:
    """A selection that has seen the untouched model."""
    actors = Actors([], *[tiny.Nobody()] * 3)
    selection = Selection(Session(config, actors, tiny.into(events), None, Timeline(config)))
    versions = Versions(0, {0: named(0)}, Timeline(config))
    versions.untouched = untouched
    return selection, versions


@pytest.mark.parametrize(("may_lose", "chosen"), [(0.0, 1), (0.05, 2), (0.2, 3), (1.0, 4)])
def test_a_version_that_loses_too_much_is_not_chosen(may_lose, chosen):
    def seen(forgotten: float, retained: float, other: float) -> Validation:
        return Validation(forgotten, retained, 1.0, other, 1.0, 0.0, 1.0)

    # Each version forgets so much more that its score is higher, and loses more.
    looks = [
        seen(0.0, 0.95, 1.0),
        seen(0.2, 0.96, 1.0),
        seen(0.4, 0.91, 1.0),
        seen(0.7, 0.95, 0.85),
        seen(1.0, 0.7, 1.0),
    ]
    events = []

    config = tiny.config(
        selection={"may_lose": may_lose, "images": 40}
    )  # 20 to keep: 0.05 is one of them
    selection, versions = considering(config, looks[0], events)
    for version, look in enumerate(looks):
        selection.consider(versions, Candidate(version, version, named(version)), look)
    assert versions.best.version == chosen
    assert [row["allowed"] for _, row in events] == [
        version <= chosen for version in range(len(looks))
    ]


@pytest.mark.parametrize(("retained", "said"), [((0.5, 0.5), 1), ((1.0, 0.5), 0), ((0.5, 1.0), 0)])
def test_it_is_said_when_only_the_untouched_model_may_be_returned(retained, said):
    events: list[Any] = []
    looks = [
        Validation(0.4 * i, share, 1.0, 1.0, 1.0, 0.0, 1.0)
        for i, share in enumerate((1.0, *retained))
    ]
    selection, versions = considering(tiny.config(selection={"images": 40}), looks[0], events)
    for version, look in enumerate(looks):
        candidate = Candidate(version, version, named(version))
        selection.consider(versions, candidate, look, final=version == 2)
    warnings = [row["message"] for event, row in events if event == "warning"]
    assert len(warnings) == said
    assert all(
        "the untouched model is returned" in message and "may_lose=0.04" in message
        for message in warnings
    )


def test_replay_spills_what_it_committed(tmp_path):
    config = tiny.config(loop={"rounds": 1})
    program.train(config, lambda *_: None, tmp_path / "spill")
    names = sorted(f.name for f in (tmp_path / "spill" / "generation-001").iterdir())
    assert len(names) == 2
    assert [n.split("-")[1] for n in names] == ["000000", "000001"]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner": {"batch": 4}}, "rollout.images"),
        ({"replay": {"max_lag": 0}}, "replay.max_lag"),
        ({"learner": {"updates_per_round": 4}}, "replay.max_lag"),
        ({"replay": {"capacity": 20}}, "replay.capacity"),
        ({"selection": {"batch": 9}}, "selection.batch"),
        ({"replay": {"capacity": 20}, "loop": {"mode": "async"}}, "replay.capacity"),
    ],
)
def test_settings_that_would_wait_for_ever_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        train(**changes)
    assert "\n" not in str(caught.value)


class Silent:
    """An actor that takes calls and never answers one of them."""

    def __init__(self, handle: InlineHandle, method: str):
        self._handle, self._method = handle, method

    def __getattr__(self, name: str) -> Any:
        return self if name == self._method else getattr(self._handle, name)

    def remote(self, *_: Any) -> Any:
        return asyncio.get_running_loop().create_future()


def handles(config: Config) -> Actors:
    return Actors(
        [InlineHandle(RolloutActor(config))],
        InlineHandle(CriticActor(config)),
        InlineHandle(ReplayActor(config)),
        InlineHandle(Learner(config)),
    )


@pytest.mark.parametrize(
    ("role", "method"),
    [("learner", "base_digest"), ("critic", "fit"), ("critic", "score"), ("learner", "update"),
     ("replay", "sample"),
     ("rollouts", "sample"), ("rollouts", "validate"), ("learner", "weights")],
)  # fmt: skip
def test_a_silent_actor_ends_the_run(role, method):
    config = tiny.config(loop={"timeout": 1.0})
    made = vars(handles(config))
    made[role] = (
        [Silent(made[role][0], method)] if role == "rollouts" else Silent(made[role], method)
    )
    with pytest.raises(TrainingError, match="no answer in 1 s"):
        asyncio.run(asyncio.wait_for(Loop(config, Actors(**made), lambda *_: None).run(), 600))


class Failing(Silent):
    """An actor one of whose methods raises from the second call on."""

    def __init__(self, handle: InlineHandle, method: str, error: Exception):
        super().__init__(handle, method)
        self._error, self._calls = error, 0

    def remote(self, *args: Any) -> Any:
        self._calls += 1
        if self._calls == 1:
            return getattr(self._handle, self._method).remote(*args)

        async def fail() -> None:
            raise self._error

        return asyncio.ensure_future(fail())


@pytest.mark.parametrize(
    ("role", "method"),
    [("rollouts", "sample"), ("critic", "score"), ("learner", "update"), ("critic", "fit")],
)
def test_an_actors_error_comes_out_as_itself(role, method):
    error = DataError("the very error")
    config = tiny.config()
    made = vars(handles(config))
    made[role] = (
        [Failing(made[role][0], method, error)]
        if role == "rollouts"
        else Failing(made[role], method, error)
    )
    with pytest.raises(DataError) as caught:
        asyncio.run(asyncio.wait_for(Loop(config, Actors(**made), lambda *_: None).run(), 600))
    assert caught.value is error


def test_an_error_in_emit_comes_out_as_itself():
    def emit(event: Event) -> None:
        if event.name == "round":
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        program.train(tiny.config(), emit)


def test_another_model_on_a_rollout_actor_is_noticed():
    config = tiny.config()
    made = vars(handles(config))

    class Other(Silent):
        def remote(self, *_: Any) -> Any:
            async def answer() -> str:
                return "another digest"

            return asyncio.ensure_future(answer())

    made["rollouts"] = [Other(made["rollouts"][0], "base_digest")]
    with pytest.raises(TrainingError, match="another model"):
        asyncio.run(Loop(config, Actors(**made), lambda *_: None).run())


def test_the_board_keeps_what_is_needed_and_the_newest():
    async def scenario() -> None:
        timeline = Timeline(tiny.config(loop={"pipeline": 1}))
        versions = Versions(0, {0: named(0)}, timeline)
        assert await versions.behaviour(2) == (0, named(0))
        waiting = asyncio.create_task(versions.behaviour(4))
        await versions.publish(1, named(1), 1)
        assert await versions.behaviour(2) == (0, named(0)), "round 2 is still to be drawn"
        await asyncio.sleep(0)
        assert not waiting.done()
        await versions.publish(2, named(2), 2)
        assert await waiting == (2, named(2))
        assert await versions.behaviour(3) == (1, named(1))
        with pytest.raises(KeyError):
            await versions.behaviour(2)
        await versions.publish(3, named(3), 99)
        assert versions.newest == named(3), "the newest version is always there"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_an_asynchronous_board_draws_by_the_newest_and_keeps_who_draws_what_no_batch_held_yet():
    async def scenario() -> None:
        timeline = Timeline(tiny.config(loop={"mode": "async"}))
        versions = Versions(0, {0: named(0)}, timeline)
        assert await versions.behaviour(1) == (0, named(0))
        assert await versions.behaviour(2) == (0, named(0))
        await versions.publish(1, named(1), 1)
        assert await versions.behaviour(3) == (1, named(1))
        assert await versions.behaviour(2) == (0, named(0)), (
            "drawn again, it would be drawn by the same one"
        )
        await versions.publish(2, named(2), 2)
        assert sorted(versions._weights) == [1, 2]
        await versions.publish(3, named(3), 3)
        assert sorted(versions._weights) == [3], "round 4 has not begun"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_every_image_is_learned_from():
    # What was paid for is used: over a run each row is drawn at least once, unless it was made
    # ahead at the very end.
    config = tiny.config(loop={"rounds": 4, "pipeline": 1}, rollout={"batch": 4})
    made = handles(config)
    drawn: collections.Counter[int] = collections.Counter()
    learner = made.learner._actor
    update = learner.update
    learner.update = lambda trajectory, scores, version: (
        drawn.update(trajectory.ids.tolist()),
        update(trajectory, scores, version),
    )[1]
    asyncio.run(Loop(config, made, lambda *_: None).run())
    expected = [round * 2**32 + n for round in range(1, 5) for n in range(8)]
    assert [id for id in expected if id not in drawn] == []
