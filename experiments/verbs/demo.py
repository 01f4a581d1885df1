"""`demo`: `train` on the shipped emoji canvas, always into the run `demo`, or `demo-TASK`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from experiments import presets
from experiments.verbs import common, train
from rl_unlearn.canvas import TRAITS

HELP = "forget a concept on the shipped emoji canvas, in minutes on two cores"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `demo` takes."""
    common.add_overrides(parser)
    common.add_cluster(parser)
    common.add_no_evaluate(parser)
    parser.add_argument("--seed", metavar="N", help="source of every random number (default 0)")
    parser.add_argument(
        "--task", choices=TRAITS, help="forget what no word names: a trait of how things are drawn"
    )


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Trains with the canvas's configuration."""
    everything = ArgumentParser()
    train.add_arguments(everything)
    whole = Namespace(**vars(everything.parse_args([])) | vars(args))
    whole.config = [presets.DEFAULT]
    whole.overrides = args.overrides + ([f"seed={args.seed}"] if args.seed else [])
    whole.name, whole.overwrite = "demo", True
    if args.task:
        whole.config = ["trait"]
        whole.overrides.insert(0, f"concept=image:canvas:{args.task}")
        whole.name = f"demo-{args.task}"
    return train.run(whole, console)
