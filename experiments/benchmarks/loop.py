"""The loop as it is shipped, validations included: images a second, and images a CPU-second.

    python -m experiments.benchmarks.loop [--turns 3] [--rounds 12] [override ...]

A turn is a run of the canvas's configuration on Ray with a short warm-up. What counts is from one
round's end to another's in the middle of it: rollouts, rewards, the critic's fits and scores, the
updates, retention, and the validations that fall between. Start-up and warm-up do not, nor do the
last rounds, which have no rollouts beside them. Images are those that are learned from; validations
draw others and cost time. CPU-seconds are those of all processes together, Ray's own with them. The
loop's modes take turns.
"""

import argparse
import sys
from pathlib import Path

from experiments import settings
from experiments.benchmarks import command
from experiments.benchmarks.cost import Clock, Cost
from experiments.files import write_json
from learner.events import Event, Round
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError

CANVAS = Path(__file__).parents[1] / "configs" / "canvas.yaml"
MODES = {
    "in turn": ("loop.pipeline=0",),
    "a round ahead": ("loop.pipeline=1",),
    "asynchronous": ("loop.pipeline=1", "loop.mode=async"),
}
_BEFORE = 2
"""Rounds until everything works at once."""
_AFTER = 2
"""Rounds at the end, whose updates have no rollouts beside them."""


def short(rounds: int) -> list[str]:
    """Returns overrides for a run in which so many rounds count."""
    return [
        "critic.warmup_images=64",
        "critic.warmup_steps=16",
        "selection.floor=0",
        f"loop.rounds={_BEFORE + rounds + _AFTER}",
    ]


def turn(config: Config) -> Cost:
    """Returns what the rounds in the middle of a run cost; see :func:`short`."""
    from cluster.program import train

    last = config.loop.rounds - _AFTER
    counted = last - _BEFORE
    if counted < 1 or counted % config.selection.every:
        raise ConfigError(
            f"{counted} rounds do not hold the same validations in each turn: give --rounds a "
            f"multiple of selection.every={config.selection.every}"
        )
    clock: list[Clock] = []
    costs: list[Cost] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Round) and event.round == _BEFORE:
            clock.append(Clock())
        if isinstance(event, Round) and event.round == last:
            costs.append(clock[-1].read(counted * config.rollout.images))

    train(config, on_event)
    return costs[-1]


def main(argv: list[str]) -> int:
    """Measures all modes; returns the exit code."""
    arguments = _parse(argv)
    return command.run(lambda: _take_turns(arguments, argv))


def _take_turns(arguments: argparse.Namespace, argv: list[str]) -> int:
    from experiments.benchmarks import machine, pairs

    asked = [*short(arguments.rounds), *arguments.overrides]
    configs = {
        mode: settings.load([str(CANVAS)], [*asked, *chosen]) for mode, chosen in MODES.items()
    }
    head = machine.head("loop", argv)
    turns: list[pairs.Pair] = []
    for number in range(arguments.turns):
        turns.append({"loop": {mode: turn(config) for mode, config in configs.items()}})
        print(f"turn {number + 1} of {arguments.turns}", flush=True)
        rates = pairs.rates(turns)["loop"]
        result = head | {"rounds": arguments.rounds, "rates": rates, "turns": pairs.rows(turns)}
        write_json(Path(arguments.out), result)
    for mode, kinds in rates.items():
        print(mode)
        for kind, values in kinds.items():
            print(
                f"    {kind.replace('_', ' '):<22} {values['median']:.1f} "
                f"({values['smallest']:.1f} to {values['largest']:.1f})"
            )
    print(f"written: {arguments.out}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command.parser(__doc__, "loop.json")
    add = parser.add_argument
    add("--turns", type=int, default=3, help="of each mode (3)")
    add("--rounds", type=int, default=12, help="that count in a turn (12)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
