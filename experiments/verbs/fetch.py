"""`fetch`: a run that was copied to a store, brought here as a run folder."""

import re
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.console import say
from rl_unlearn.config import NAME
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.files.places import check_store, shown

HELP = "bring a run here that was copied to a store (output=s3://...), checked byte by byte"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `fetch` takes."""
    parser.add_argument(
        "address", metavar="ADDRESS", help="of the run, such as s3://bucket/runs/frog-seed0"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", default="outputs", help="where run folders are; default outputs"
    )


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Fetches the newest copy that is whole: the finished run, or its newest checkpoint."""
    address, mark, asked = args.address.partition("?")
    above, _, name = address.rstrip("/").rpartition("/")
    check_store(f"{above}{mark}{asked}", "ADDRESS")
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"ADDRESS: {shown(args.address)!r} ends with no run's name: give one such as "
            "s3://bucket/runs/frog-seed0"
        )
    from experiments.mirror import fetching, owner
    from experiments.mirror.opening import open_store

    store = open_store(f"{above}{mark}{asked}", name)
    writer = owner.read(store)
    if writer is None or writer.run is None:
        raise DataError(
            f"{store.place} holds no run: check the address, or wait for its first copy"
        )
    path = Path(args.out) / name
    copy = fetching.fetch(store, writer.run, path, partial(say, console))
    return {
        "run": str(path),
        "finished": copy.complete.finished,
        "round": copy.complete.round,
        "store": store.place,
    }
