"""`erase`: a supervised eraser in place of reinforcement learning, into a run folder like any
other.
"""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from experiments import settings
from experiments.console import say
from experiments.mirror import fetching, opening
from experiments.runs import replacing, run_folder
from experiments.verbs import common, train
from rl_unlearn import reward_names
from rl_unlearn.config.erasing import Method
from rl_unlearn.errors import ConfigError

HELP = "erase a concept by a supervised method, to compare with or to start from"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `erase` takes."""
    common.add_config(parser)
    common.add_no_evaluate(parser)
    parser.add_argument(
        "--method", choices=get_args(Method), help="which one; default erase.method, uce"
    )
    parser.add_argument("--name", metavar="N", help="run name; default CONCEPT-METHOD-seedSEED")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of this name")


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Checks everything cheap, then erases in this process."""
    overrides = [*args.overrides, "cluster.inline=true"]
    overrides += [f"erase.method={args.method}"] if args.method else []
    config = settings.load(args.config, overrides)
    if args.name or config.name is None:
        named = config.model_copy(update={"concept": f"{config.concept}-{config.erase.method}"})
        overrides.append(f"name={args.name or named.run_name}")
        config = settings.load(args.config, overrides)
    if reward_names.trait(config.concept) is not None:
        raise ConfigError(
            f"erase needs a word to erase, and no word names the concept {config.concept!r}: use "
            "train, which learns from what a function sees"
        )
    replacing.restore(Path(config.output) / config.run_name)
    folder = run_folder.reserve(config, args.overwrite)
    with opening.held(config, console) as mirror:
        if mirror is not None and not args.overwrite:
            fetching.check_free(mirror, partial(say, console))
        return train.start(config, folder, args, console, supervised=True, mirror=mirror)
