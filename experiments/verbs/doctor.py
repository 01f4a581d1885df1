"""`doctor`: whether this machine can run what the project does."""

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments import settings
from experiments.verbs import common
from rl_unlearn.errors import MachineError

HELP = "check versions, devices, disk, models, trackers, Ray, its ports and who may use it"
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `doctor` takes."""
    common.add_config(parser)
    parser.add_argument(
        "--ray",
        action="store_true",
        help=(
            "also start and stop Ray (a cluster that cluster.address or RAY_ADDRESS names is "
            "always asked)"
        ),
    )


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Shows a row of each check; fails with exit code 3 if one does."""
    config = settings.load(args.config, args.overrides)
    from experiments.doctor import health, health_cluster

    rows = health.check(config) + health_cluster.check(config, start=args.ray)
    table = Table()
    for heading in ("check", "state", "found"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.name, f"[{COLOURS[row.state]}]{row.state}[/]", row.found)
    console.print(table)
    failed = [row.name for row in rows if row.state == "fail"]
    if failed and not args.json:
        raise MachineError(f"not ready: {', '.join(failed)}; the table says what was found")
    return {
        "ok": not failed,
        "exit_code": 3 if failed else 0,
        "checks": [vars(row) for row in rows],
    }
