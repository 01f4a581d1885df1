"""`resume`: go on with a run from its newest checkpoint."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.console import say
from experiments.mirror import fetching, opening
from experiments.runs import replacing, resuming
from experiments.verbs import common, train
from rl_unlearn.errors import DataError

HELP = "go on with a run that was stopped, from its newest checkpoint"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `resume` takes."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    common.add_config_beside(parser)
    common.add_overrides(parser)
    common.add_cluster(parser)
    common.add_no_evaluate(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Trains on with the run's own configuration."""
    folder = Path(args.run).absolute()
    replacing.restore(folder)
    if not resuming.is_run(folder):
        raise DataError(
            f"{args.run} holds no run to resume: give a run folder, or start one with train"
        )
    place = [f"output={folder.parent}", f"name={folder.name}"]
    overrides = args.overrides + common.cluster_overrides(args) + place
    config = common.beside(folder, args.config, overrides, resuming.MAY_CHANGE)
    with opening.held(config, console) as mirror:
        if mirror is not None:
            fetching.go_on_here(mirror, folder, partial(say, console))
        return train.go_on(config, args, console, mirror)
