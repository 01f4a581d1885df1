"""`demo`: `train` on the shipped emoji canvas, always into the run `demo`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from experiments.verbs import common, train

HELP = "forget a concept on the shipped emoji canvas, in minutes on two cores"


def add_arguments(parser: ArgumentParser) -> None:
    """What `demo` takes."""
    common.add_overrides(parser)
    common.add_cluster(parser)
    parser.add_argument("--seed", metavar="N", help="source of every random number (default 0)")


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Train with the canvas's configuration."""
    args.config = [str(common.CONFIGS / "canvas.yaml")]
    args.overrides = args.overrides + ([f"seed={args.seed}"] if args.seed else [])
    args.name, args.overwrite, args.critic_from = "demo", True, None
    args.on = args.resume = None
    return train.run(args, console)
