"""The replay actor: the rate limiter waits and wakes, nothing is lost or counted twice, sampling is
what it says.
"""

import asyncio
import collections
import dataclasses
import itertools
import math
from typing import Any

import pyarrow as pa
import pytest
import tiny
import torch
from tiny_batches import round_rows

from actors.replay import ReplayActor
from rl_unlearn.errors import TrainingError
from rl_unlearn.noise import generator
from rl_unlearn.states import choose
from rl_unlearn.trajectory import Trajectory


def store(
    images: int = 4, pipeline: int = 0, spill: str | None = None, **replay: Any
) -> ReplayActor:
    settings = {"capacity": 64, "max_lag": 4, **replay}
    return ReplayActor(
        tiny.config(
            rollout={"images": images, "batch": images},
            loop={"pipeline": pipeline},
            replay=settings,
        ),
        spill,
    )


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


async def settled(task: "asyncio.Task[Any]") -> bool:
    """Whether the task is done once everything that can happen has happened."""
    for _ in range(50):
        await asyncio.sleep(0)
    return task.done()


def names(trajectory: Trajectory) -> list[int]:
    return [int(100 * (i // 2**32) + i % 2**32) for i in trajectory.ids.tolist()]


async def recent(
    replay: ReplayActor, count: int, version: int, seed: tuple[int | str, ...]
) -> Trajectory:
    """The trajectories that the critic's states are of."""
    return replay._store.read(await replay._recent(count, version, seed))


CALLS = itertools.count()


async def draw(
    replay: ReplayActor,
    count: int,
    version: int = 1,
    newest: int | None = None,
    fresh: int = 0,
    seed: Any = None,
):
    return await replay.sample(count, version, newest, fresh, seed or ("call", next(CALLS)))


def test_a_repeated_draw_gives_the_same_rows_and_counts_nothing():
    async def scenario() -> None:
        replay = store()
        await replay.add(round_rows(1))
        first = await draw(replay, 2, fresh=4, seed=("batch", 1))
        counts = await replay.counts()
        await replay.add(round_rows(2))
        again = await draw(replay, 2, fresh=4, seed=("batch", 1))
        assert names(again) == names(first)
        assert (await replay.counts())["sampled"] == counts["sampled"]
        other = await draw(replay, 2, fresh=4, seed=("batch", 2))
        assert not set(names(other)) & set(names(first)), (
            "rows that were never drawn come first, as if nothing was"
        )

    run(scenario())


def test_rows_that_are_not_finite_are_refused_and_not_waited_for():
    async def scenario() -> None:
        replay = store()
        spoiled = round_rows(1)
        spoiled.rewards[1] = math.nan
        spoiled.latents[2, 0, 0, 0, 0] = -math.inf
        assert await replay.add(spoiled) == 2
        assert await replay.add(spoiled) == 0
        counts = await replay.counts()
        assert (counts["added"], counts["refused"], counts["repeated"], counts["held"]) == (
            2,
            2,
            4,
            2,
        )
        kept = await replay.refused(1)
        assert names(kept) == [101, 102]
        assert names(await draw(replay, 4, fresh=4)) == [100, 103], (
            "the round is complete without them"
        )
        resumed = store()
        await resumed.restore(await replay.snapshot(1))
        assert await resumed.add(spoiled) == 0, "they stay refused"
        assert names(await draw(resumed, 4)) == [100, 103]
        waiting = asyncio.create_task(draw(replay, 4, fresh=4))
        assert not await settled(waiting), "of the next round all rows are waited for again"
        spoiled = round_rows(2)
        spoiled.rewards[1] = math.nan
        await replay.add(spoiled)
        assert {200, 202} <= set(names(await waiting))
        await replay.add(round_rows(3))
        assert (await replay.snapshot(1)).values["counts"]["refused"] == 3

    run(scenario())


def test_adding_twice_is_a_no_op():
    async def scenario() -> None:
        replay = store(images=6)
        assert await replay.add(round_rows(1)) == 4
        assert await replay.add(round_rows(1)) == 0
        assert await replay.add(round_rows(1, count=6)) == 2
        counts = await replay.counts()
        assert (counts["held"], counts["added"], counts["repeated"]) == (6, 6, 8)
        assert names(await draw(replay, 10)) == [100, 101, 102, 103, 104, 105]

    run(scenario())


def test_optional_fields_come_back_and_are_spilled(tmp_path):
    async def scenario() -> None:
        replay = store(images=4, pipeline=1, spill=str(tmp_path))
        for round in (1, 2):
            means, predicted = torch.randn(4, 2, 2, 2, 2), torch.randn(4, 2)
            await replay.add(
                dataclasses.replace(round_rows(round), means=means, predicted=predicted)
            )
        drawn = await draw(replay, 3)
        assert names(drawn) == [100, 101, 102]
        assert drawn.means.shape == (3, 2, 2, 2, 2)
        last = await recent(replay, 8, 1, (0,))
        assert torch.equal(last.means[4:], means)
        assert torch.equal(last.predicted[4:], predicted)
        with pa.memory_map(str(sorted(tmp_path.glob("*.arrow"))[1])) as source:
            assert torch.equal(
                Trajectory.from_arrow(pa.ipc.open_file(source).get_batch(0)).predicted, predicted
            )

    run(scenario())


def test_the_warm_up_is_read_by_position_without_what_is_not_finite():
    async def scenario() -> None:
        replay, rows = store(images=4), round_rows(0)
        rows.rewards[1] = torch.nan
        assert await replay.add(rows, False) == 3
        assert names(await replay.warm_up(0, 2)) == [0]
        assert names(await replay.warm_up(0, 4)) == [0, 2, 3]

    run(scenario())


def test_an_evicted_row_does_not_come_back_when_its_call_is_repeated():
    async def scenario() -> None:
        replay = store(max_lag=0)
        await replay.add(round_rows(1, version=0))
        await replay.add(round_rows(2, version=1))
        assert names(await draw(replay, 10)) == [200, 201, 202, 203]
        assert await replay.add(round_rows(1, version=0)) == 0
        assert (await replay.counts())["held"] == 4

    run(scenario())


def test_what_is_sampled_is_what_was_added():
    async def scenario() -> None:
        replay = store()
        await replay.add(round_rows(1, version=2))
        batch = await draw(replay, 4, version=2)
        assert torch.equal(batch.latents, round_rows(1).latents)
        assert torch.equal(batch.rewards, round_rows(1).rewards)
        assert batch.policy_versions.tolist() == [2] * 4

    run(scenario())


def test_add_waits_while_the_learner_lags_and_wakes():
    async def scenario() -> None:
        replay = store(images=4, pipeline=1)  # 8 unsampled rows at most when an add is admitted
        for round in (1, 2, 3):
            await replay.add(round_rows(round))
        waiting = asyncio.create_task(replay.add(round_rows(4)))
        assert not await settled(waiting)
        assert (await replay.counts())["added"] == 12
        await draw(replay, 4)
        assert await waiting == 4
        assert (await replay.counts())["added"] == 16, "what waited was not dropped"

    run(scenario())


def test_warm_up_rows_neither_wait_nor_count_as_fresh():
    async def scenario() -> None:
        replay = store(images=2, pipeline=1)
        await replay.add(round_rows(0, count=20, version=0), False)
        await replay.add(round_rows(1, count=2))
        waiting = asyncio.create_task(draw(replay, 4, fresh=3))
        assert not await settled(waiting)
        await replay.add(round_rows(2, count=2))
        assert set(names(await waiting)) >= {100, 101, 200, 201}

    run(scenario())


def test_the_warm_up_is_for_the_critic_and_never_learned_from():
    async def scenario() -> None:
        replay = store(images=2)
        await replay.add(round_rows(0, count=20, version=0), False)
        await replay.add(round_rows(1, count=2))
        for number in range(5):
            assert names(await draw(replay, 8, fresh=0 if number else 2)) == [100, 101]
        assert any(id < 100 for id in names(await recent(replay, 16, 1, ("recent",))))

    run(scenario())


def test_sample_waits_until_its_round_is_whole():
    async def scenario() -> None:
        replay = store(images=4, pipeline=2)
        waiting = asyncio.create_task(draw(replay, 6, newest=2))
        await replay.add(round_rows(1))
        assert not await settled(waiting)
        await replay.add(round_rows(2, count=2))
        assert not await settled(waiting)
        await replay.add(round_rows(2, count=2, offset=2))
        assert names(await waiting) == [100, 101, 102, 103, 200, 201]
        await replay.add(round_rows(3))
        assert names(await draw(replay, 99, newest=2)) == [100, 101, 102, 103, 200, 201, 202, 203]
        assert await replay.newest_round(1) == 2

    run(scenario())


def test_without_a_round_the_newest_whole_one_is_taken():
    async def scenario() -> None:
        replay = store(images=4, pipeline=2)
        waiting = asyncio.create_task(draw(replay, 99, fresh=4))
        told = asyncio.create_task(replay.newest_round(1))
        await replay.add(round_rows(1, count=3))
        assert not await settled(waiting)
        await replay.add(round_rows(1, count=1, offset=3))
        assert names(await waiting) == [100, 101, 102, 103]
        assert await told == 1
        await replay.add(round_rows(2))
        await replay.add(round_rows(3, count=3))
        assert names(await draw(replay, 99, version=2)) == [100, 101, 102, 103, 200, 201, 202, 203]
        assert await replay.newest_round(2) == 2
        assert await replay.newest_round(1) == 1
        assert len(await recent(replay, 99, 2, ("recent",))) == 8

    run(scenario())


def test_a_round_that_is_whole_before_an_earlier_one_waits_for_it():
    async def scenario() -> None:
        replay = store(images=4, pipeline=1)
        await replay.add(round_rows(1, count=3))
        await replay.add(round_rows(2))
        free = asyncio.create_task(draw(replay, 99, 1, None, fresh=4))
        told = asyncio.create_task(draw(replay, 99, 2, 2, fresh=4))
        assert not await settled(free)
        assert not await settled(told)
        await replay.add(round_rows(1, count=1, offset=3))
        assert names(await free) == [100, 101, 102, 103, 200, 201, 202, 203]
        assert len(await told) == 8
        assert await replay.newest_round(1) == 2

    run(scenario())


def test_a_round_before_one_that_has_begun_is_let_in():
    # Else neither side could go on: the later round is drawn from after the earlier one.
    async def scenario() -> None:
        replay = store(images=4, pipeline=0)
        for round in (1, 3):
            await replay.add(round_rows(round))
        waiting = asyncio.create_task(replay.add(round_rows(4)))
        assert await replay.add(round_rows(2)) == 4
        assert not await settled(waiting)
        assert len(await draw(replay, 99, newest=3)) == 12
        assert await waiting == 4

    run(scenario())


def test_memory_of_evicted_rows_is_used_again_and_nobody_else_has_it():
    async def scenario() -> None:
        replay = store(images=4, capacity=4, max_lag=99)
        drawn = []
        for round in range(1, 5):
            given = round_rows(round)
            await replay.add(given)
            given.latents.zero_()  # what was given is no longer the store's
            drawn.append(await draw(replay, 4, newest=round))
        for round, batch in enumerate(drawn, 1):
            assert torch.equal(batch.latents, round_rows(round).latents)
            assert names(batch) == [100 * round + n for n in range(4)]
        assert len(replay._store._spare) == 4, "as much as the most rows took"

    run(scenario())


@pytest.mark.parametrize("count", [0, 40])
def test_states_are_those_of_the_trajectories_drawn_alike(count):
    async def scenario() -> None:
        replay = store(images=8)
        await replay.add(round_rows(1, count=8))
        await draw(replay, 8)
        found = await replay.states(5, count, 0.5, 1, ("states", 1))
        drawn = await recent(replay, 5, 1, ("states", 1))
        expected = choose(drawn, count, 0.5, generator("states", 1, "states"))
        for field in dataclasses.fields(found):
            assert torch.equal(getattr(found, field.name), getattr(expected, field.name))

    run(scenario())


def test_a_round_that_has_begun_is_let_in_whole():
    # Half of a round is never drawn from: were the rest kept out, neither side could go on.
    async def scenario() -> None:
        replay = store(images=4, pipeline=0)
        await replay.add(round_rows(1, count=4))
        await replay.add(round_rows(2, count=1))
        assert await replay.add(round_rows(2, count=3, offset=1)) == 3
        waiting = asyncio.create_task(replay.add(round_rows(3, count=1)))
        assert not await settled(waiting)
        assert names(await draw(replay, 4, fresh=4)) == [100, 101, 102, 103]
        assert await waiting == 1

    run(scenario())


@pytest.mark.parametrize("newest", [None, 5])
def test_stale_rows_make_room_for_a_round_that_is_waited_for(newest):
    async def scenario() -> None:
        replay = store(images=4, pipeline=0, max_lag=0)

        async def rollouts() -> None:
            for round in range(1, 6):
                await replay.add(round_rows(round, version=0 if round < 5 else 1))

        adding = asyncio.create_task(rollouts())
        assert names(await draw(replay, 4, 0, newest and 1, fresh=4)) == [100, 101, 102, 103]
        assert names(await draw(replay, 4, 1, newest, fresh=4)) == [500, 501, 502, 503]
        assert await replay.newest_round(1) == 5
        await adding

    run(scenario())


def test_what_comes_earlier_or_later_changes_no_batch():
    # The same newest round for the same update: the same batches, whatever else has arrived by
    # then.
    async def scenario(early: int) -> list[list[int]]:
        replay = store(images=4, pipeline=9, capacity=10, max_lag=2)
        drawn, added = [], 0
        for version, newest in enumerate((1, 1, 3, 4, 6, 6)):
            while added < newest + early:
                added += 1
                await replay.add(round_rows(added, version=max(0, added - 2)))
            drawn.append(names(await draw(replay, 6, version, newest, seed=("batch", version))))
            drawn.append(names(await recent(replay, 5, version, ("recent", version))))
            states = await replay.states(5, 7, 0.5, version, ("recent", version))
            drawn.append([states.latents.tolist(), states.levels.tolist(), states.final.tolist()])
        snapshot = await replay.snapshot(5)
        with pytest.raises(TrainingError, match="snapshot is too late"):
            await replay.snapshot(4)
        drawn.append(snapshot.tensors["seen"].tolist())
        drawn.append(sorted(snapshot.values["counts"].items()))
        return drawn

    assert run(scenario(0)) == run(scenario(1)) == run(scenario(3))


def test_fresh_rows_come_first_and_the_rest_is_old():
    async def scenario() -> None:
        replay = store(images=4)
        await replay.add(round_rows(1))
        await draw(replay, 4)
        await replay.add(round_rows(2))
        batch = names(await draw(replay, 6))
        assert batch[-4:] == [200, 201, 202, 203]
        assert len(set(batch)) == 6
        await replay.add(round_rows(3))
        assert names(await draw(replay, 3)) == [300, 301, 302], "the oldest fresh ones first"
        assert 303 in names(await draw(replay, 1))

    run(scenario())


def test_fewer_rows_than_asked_for_come_once_each():
    async def scenario() -> None:
        replay = store()
        await replay.add(round_rows(1))
        await draw(replay, 4)
        assert names(await draw(replay, 99)) == [100, 101, 102, 103]

    run(scenario())


def test_eviction_by_lag_at_the_exact_bound():
    async def scenario() -> None:
        replay = store(images=4, max_lag=3)
        await replay.add(round_rows(1, version=5))
        assert len(await draw(replay, 4, version=8)) == 4, "a lag of exactly max_lag stays"
        await replay.add(round_rows(2, version=8))
        assert names(await draw(replay, 8, version=9)) == [200, 201, 202, 203]
        counts = await replay.counts()
        assert (counts["evicted_stale"], counts["held"]) == (4, 4)

    run(scenario())


def test_stale_rows_that_arrive_while_sample_waits_are_never_trained_on():
    async def scenario() -> None:
        replay = store(images=4, max_lag=2)
        waiting = asyncio.create_task(draw(replay, 8, version=9, fresh=4))
        assert not await settled(waiting)
        await replay.add(round_rows(1, version=3))
        assert not await settled(waiting)
        await replay.add(round_rows(2, version=8))
        assert names(await waiting) == [200, 201, 202, 203]

    run(scenario())


def test_eviction_makes_room_for_an_add_that_waits():
    async def scenario() -> None:
        replay = store(images=4, max_lag=1)
        for round in (1, 2):
            await replay.add(round_rows(round, version=0))
        adding = asyncio.create_task(replay.add(round_rows(3, version=5)))
        assert not await settled(adding)
        sampling = asyncio.create_task(draw(replay, 4, version=5, fresh=4))
        assert names(await sampling) == [300, 301, 302, 303]
        assert await adding == 4

    run(scenario())


def test_capacity_keeps_the_newest_and_the_counts_add_up():
    async def scenario() -> None:
        replay = store(images=3, capacity=10)
        for round in range(1, 8):
            await replay.add(round_rows(round, count=3))
            held = names(await draw(replay, 99))
            counts = await replay.counts()
            assert counts["held"] <= 10
            assert (
                counts["added"]
                == counts["held"] + counts["evicted_capacity"] + counts["evicted_stale"]
            )
        assert counts["evicted_capacity"] == 11
        assert held == [402, 500, 501, 502, 600, 601, 602, 700, 701, 702]

    run(scenario())


def test_sampling_is_deterministic_in_content_and_seed():
    async def scenario(order: list[int], seed: int) -> list[int]:
        replay = store(images=16)
        for offset in order:  # chunks of a round may arrive in any order
            await replay.add(round_rows(1, offset=offset))
        await draw(replay, 16)
        return names(await draw(replay, 5, seed=("batch", seed)))

    one = run(scenario([0, 4, 8, 12], 0))
    assert one == run(scenario([12, 0, 8, 4], 0))
    assert any(one != run(scenario([0, 4, 8, 12], seed)) for seed in (1, 2))


def test_old_rows_are_drawn_uniformly():
    async def scenario() -> float:
        replay = store(images=20)
        await replay.add(round_rows(1, count=20))
        await draw(replay, 20)
        drawn: collections.Counter[int] = collections.Counter()
        for number in range(160):
            drawn.update(names(await draw(replay, 5, seed=("chi", number))))
        assert len(drawn) == 20
        return sum((n - 40) ** 2 / 40 for n in drawn.values())

    # Without replacement the statistic is smaller than chi-square's with 19 degrees: 43.8 is its
    # 99.9 % point.
    assert run(scenario()) < 43.8


def test_recent_waits_for_the_batch_of_its_round_and_does_not_count():
    async def scenario() -> None:
        replay = store(images=4, pipeline=3)
        await replay.add(round_rows(1))
        waiting = asyncio.create_task(recent(replay, 99, 1, ("recent",)))
        assert not await settled(waiting)
        await replay.add(round_rows(2))
        assert not await settled(waiting)
        await draw(replay, 4, newest=1)
        assert names(await waiting) == [100, 101, 102, 103], (
            "rows of round 2 came early and must not be seen"
        )
        counts = await replay.counts()
        assert counts["sampled"] == 4
        assert names(await draw(replay, 4, newest=2)) == [200, 201, 202, 203]

    run(scenario())


def test_recent_waits_for_its_batch_in_asynchronous_mode_too():
    async def scenario() -> None:
        replay = store(images=4, pipeline=3)
        await replay.add(round_rows(1))
        await draw(replay, 4, version=1, fresh=4)
        waiting = asyncio.create_task(recent(replay, 99, 2, ("recent",)))
        assert not await settled(waiting), "it would see none of what the batch holds"
        await replay.add(round_rows(2))
        await draw(replay, 4, version=2, fresh=4)
        assert set(names(await waiting)) >= {200, 201, 202, 203}

    run(scenario())


def test_spilled_batches_are_whole_and_readable(tmp_path):
    async def scenario() -> None:
        replay = store(images=8, spill=str(tmp_path / "deep" / "spill"))
        await replay.add(round_rows(1))
        await replay.add(round_rows(1, offset=4))
        await replay.add(round_rows(1))  # repeated: not written again
        await replay.add(round_rows(2))

    run(scenario())
    files = sorted((tmp_path / "deep" / "spill").iterdir())
    assert len(files) == 3
    assert all(f.suffix == ".arrow" for f in files), "a .tmp file was left"
    found = []
    for file in files:
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            found.append(Trajectory.from_arrow(reader.get_batch(0)))
    assert names(Trajectory.cat(found)) == [
        100,
        101,
        102,
        103,
        104,
        105,
        106,
        107,
        200,
        201,
        202,
        203,
    ]
    assert torch.equal(found[2].latents, round_rows(2).latents)
