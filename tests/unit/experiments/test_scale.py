"""The benchmark of the loop, on stand-ins in this process."""

import asyncio
from typing import Any

import torch

from actors.replay import ReplayActor
from cluster.inline import InlineHandle
from experiments.benchmarks import scale, stand_ins
from experiments.benchmarks.stand_ins import Size
from learner.events import Event, Round, Selection
from learner.loop import Loop
from learner.roles import Actors

SIZE = Size((1, 2, 2), 3, torch.bfloat16)


def test_the_loop_runs_on_stand_ins() -> None:
    config = scale.configuration(3, ["selection.images=8", "selection.every=2"])
    sleepers = InlineHandle(stand_ins.Sleepers(3, SIZE, scale.PER_ACTOR, 0.0))
    told: list[Event] = []
    actors: Any = Actors(
        [stand_ins.Sleeper(sleepers, number) for number in range(3)],
        InlineHandle(stand_ins.Critic(SIZE, config.learner.batch)),
        InlineHandle(ReplayActor(config)),
        InlineHandle(stand_ins.Learner()),
    )
    result = asyncio.run(Loop(config, actors, told.append).run())
    assert result.updates == scale.ROUNDS
    assert [event.round for event in told if isinstance(event, Round)][-1] == scale.ROUNDS
    looks = [event.round for event in told if isinstance(event, Selection) and not event.final]
    assert looks == [1, 3, 5, 7, 9]


def test_a_replay_store_takes_the_memory_that_shapes_give() -> None:
    row = scale.replay(Size((4, 16, 16), 3, torch.bfloat16), images=64, batch=8, turns=6)
    assert row["rows"] == 5 * 64
    assert row["computed_bytes"] == 5 * 64 * Size((4, 16, 16), 3, torch.bfloat16).bytes
    assert row["in_and_out_per_second"] > 0
