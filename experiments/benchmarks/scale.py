"""How the loop scales, and what the transport costs: rollout actors sleep in place of drawing.

    python -m experiments.benchmarks.scale [--parts loop,replay] [--actors 8,64] [--seconds 1]
                                           [--sizes canvas,sd15,sdxl] [--out FILE] [override ...]

Part `loop`: the real loop and the real replay actor on a private Ray. Each rollout actor draws
eight images a round, which takes a second; learner and critic answer at once, with tensors of real
shapes. Efficiency is the ideal time of the rounds' own images over the real one, in the middle of a
run; the images of validations count as nothing. The rollout actors live in two processes; the loop
sees as many handles as there are actors.

Part `replay`: the replay actor in this process, images a second in and out, and its memory against
the one that the shapes give.

The file has the machine and its versions, too.
"""

import argparse
import asyncio
import gc
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import torch

from actors.replay import ReplayActor
from cluster import bare, event_loop
from experiments import settings
from experiments.benchmarks import command, machine, stand_ins
from experiments.benchmarks.stand_ins import Size
from experiments.files import to_json, write_json
from learner.events import Event, Round
from learner.loop import Loop
from learner.roles import Actors
from rl_unlearn.config import Config

SIZES = {
    "canvas": Size((4, 8, 8), 10, torch.float32),
    "sd15": Size((4, 64, 64), 30, torch.bfloat16),
    "sdxl": Size((4, 128, 128), 30, torch.bfloat16),
}
PARTS = ("loop", "replay")
PER_ACTOR = 8
"""Images that an actor draws in a round."""
FIRST, LAST, ROUNDS = 3, 9, 10
"""Rounds between whose ends the time is taken, and of the whole run."""
PROCESSES = 2


def configuration(actors: int, overrides: list[str]) -> Config:
    """The configuration of a run with so many rollout actors."""
    images = PER_ACTOR * actors
    return settings.load(
        [],
        [
            f"rollout.actors={actors}", f"rollout.images={images}", f"rollout.batch={PER_ACTOR}",
            f"learner.batch={images}", f"replay.capacity={3 * images + PER_ACTOR}",
            f"critic.warmup_images={PER_ACTOR}", f"loop.rounds={ROUNDS}",
            "loop.checkpoint_every=0", "selection.floor=0", *overrides,
        ],
        environ={},
    )  # fmt: skip


def loop(config: Config, size: Size, seconds: float) -> dict[str, Any]:
    """Runs the loop with rounds that would take so many seconds; returns its efficiency, and
    CPU-seconds of all processes for each image.
    """
    count, images = config.rollout.actors, config.rollout.images
    hosts = min(PROCESSES, count)
    shares = [len(range(host, count, hosts)) for host in range(hosts)]
    wanted = [
        *((stand_ins.Sleepers, (share, size, PER_ACTOR, seconds / PER_ACTOR)) for share in shares),
        (stand_ins.Critic, (size, config.learner.batch)),
        (ReplayActor, (config,)),
        (stand_ins.Learner, ()),
    ]
    ends: dict[int, tuple[float, Counter[str]]] = {}
    largest = 0

    def on_event(event: Event) -> None:
        nonlocal largest
        if isinstance(event, Round) and event.round in (FIRST, LAST):
            ends[event.round] = time.monotonic(), _cpu_seconds()
            largest = max(largest, _resident_bytes())

    with bare.actors(config, wanted) as made:
        *sleepers, critic, replay, learner = made
        handles = [stand_ins.Sleeper(sleepers[i % hosts], i // hosts) for i in range(count)]
        actors: Any = Actors(handles, critic, replay, learner)
        event_loop.run(Loop(config, actors, on_event).run())
    (begun, used), (ended, used_by_then) = ends[FIRST], ends[LAST]
    rounds = LAST - FIRST
    used_by_then.subtract(used)
    per_image = {name: spent / (rounds * images) for name, spent in used_by_then.most_common()}
    return {
        "actors": count,
        "round_seconds": seconds,
        "efficiency": rounds * seconds / (ended - begun),
        "images_per_second": rounds * images / (ended - begun),
        "cpu_seconds_per_image": sum(per_image.values()),
        "cpu_seconds_per_image_by_process": {k: v for k, v in per_image.items() if v > 0},
        "resident_bytes": largest,
    }


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds() -> Counter[str]:
    """CPU-seconds of this process and all that it started, by what they are called."""
    seconds: Counter[str] = Counter()
    for process in _processes():
        name = process.cmdline()[0]
        name = name.split(".")[0] if name.startswith("ray::") else Path(name).name
        seconds[name] += sum(process.cpu_times()[:2])
    return seconds


def _resident_bytes() -> int:
    infos = [process.memory_info() for process in _processes()]
    return sum(info.rss - info.shared for info in infos)


def replay(size: Size, images: int = 512, batch: int = 64, turns: int = 5) -> dict[str, Any]:
    """Fills a replay actor and draws from it; images a second of CPU time, and its memory."""
    config = settings.load(
        [],
        [
            f"rollout.images={images}", f"learner.batch={batch}",
            f"learner.updates_per_round={images // batch}", "critic.warmup_images=2",
            f"replay.capacity={4 * images}", "replay.max_lag=64",
        ],
        environ={},
    )  # fmt: skip
    actor = ReplayActor(config)
    seconds = {"in": 0.0, "batches": 0.0, "states": 0.0}
    most = 0

    async def work() -> None:
        nonlocal most
        for round in range(1, turns + 1):
            for offset in range(0, images, batch):
                given = _round_rows(size, round, offset, batch)
                with _Clock(seconds, "in"):
                    await actor.add(given)
                del given
            most = max(most, (await actor.counts())["held"])
            for number in range(images // batch):
                version = (round - 1) * (images // batch) + number
                with _Clock(seconds, "batches"):
                    await actor.sample(batch, version, round, 0, ("batch", version))
                with _Clock(seconds, "states"):
                    await actor.states(
                        config.critic.window, config.critic.steps * config.critic.fresh,
                        config.critic.renoised, version, ("states", version),
                    )  # fmt: skip

    gc.collect()
    before = psutil.Process().memory_info().rss
    asyncio.run(work())
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    drawn = turns * images
    return {
        "in_per_second": drawn / seconds["in"],
        "batches_per_second": drawn / seconds["batches"],
        "states_milliseconds": 1000 * seconds["states"] / (drawn // batch),
        "in_and_out_per_second": drawn / sum(seconds.values()),
        "rows": most,
        "memory_bytes": grown,
        "computed_bytes": most * size.bytes,
        "memory_ratio": grown / (most * size.bytes),
    }


def _round_rows(size: Size, round: int, offset: int, count: int) -> Any:
    rows = size.trajectory(count)
    rows.ids.copy_(torch.arange(offset, offset + count) + round * 2**32)
    rows.rounds.fill_(round)
    return rows


class _Clock:
    """Adds the CPU time of a block to one of the figures."""

    def __init__(self, seconds: dict[str, float], name: str):
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] += time.process_time() - self._start


def main(argv: list[str]) -> int:
    """Measures part after part; returns the exit code."""
    arguments = _parse(argv)
    return command.run(lambda: _measure_and_write(arguments, argv))


def _measure_and_write(arguments: argparse.Namespace, argv: list[str]) -> int:
    torch.set_num_threads(1)
    found: dict[str, Any] = machine.head("scale", argv) | {"sizes": {}}
    for name in arguments.sizes.split(","):
        size = SIZES[name]
        rows: dict[str, Any] = {"trajectory_bytes": size.bytes, "loop": []}
        found["sizes"][name] = rows
        if "replay" in arguments.parts:
            rows["replay"] = replay(size)
            print(f"{name} replay {to_json(rows['replay'])}", flush=True)
        for count in map(int, arguments.actors.split(",") if "loop" in arguments.parts else ()):
            config = configuration(count, arguments.overrides)
            row = loop(config, size, arguments.seconds)
            rows["loop"].append(row)
            print(f"{name} loop {to_json(row)}", flush=True)
        write_json(Path(arguments.out), found)
    print(f"written: {arguments.out}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command.parser(__doc__, "scale.json")
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), metavar="A,B", help="only these")
    add("--actors", default="1,8,64,256", metavar="A,B", help="rollout actors (1,8,64,256)")
    add("--sizes", default="canvas", metavar="A,B", help=f"of {', '.join(SIZES)} (canvas)")
    add("--seconds", type=float, default=1.0, metavar="S", help="ideal time of a round (1)")
    arguments = parser.parse_args(argv)
    arguments.parts = arguments.parts.split(",")
    for what, known in ((arguments.parts, PARTS), (arguments.sizes.split(","), SIZES)):
        for name in set(what) - {*known}:
            parser.error(f"there is no {name!r}, but {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
