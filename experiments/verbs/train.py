"""`train`: one run, from a configuration to an adapter with its evaluation and report."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from experiments import address, run_folder, settings
from experiments.verbs import common

HELP = "train an adapter that forgets a concept"


def add_arguments(parser: ArgumentParser) -> None:
    """What `train` takes."""
    common.add_config(parser)
    common.add_cluster(parser)
    parser.add_argument("--name", metavar="N", help="run name; default CONCEPT-seedSEED")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of this name")


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Check everything cheap, then train."""
    overrides = args.overrides + common.cluster_overrides(args) + ([f"name={args.name}"] if args.name else [])
    config = settings.load(args.config, overrides)
    if not config.cluster.inline:
        address.check(config.cluster.address)
    folder = run_folder.reserve(config, args.overwrite)
    from experiments import measuring
    from experiments.run import carry_out

    outcome = carry_out(config, folder, args.argv, not args.no_evaluate, console)
    if "after" in outcome:
        measuring.show(outcome, console)
    console.print(
        f"{outcome['images_used']:,} images, {outcome['updates']:,} updates, {outcome['wall_seconds']:.0f} seconds\n"
        f"report: {outcome['report']}",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
    return outcome
