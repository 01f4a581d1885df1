"""Arguments that several verbs share."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments import settings
from experiments.runs.resuming import is_run
from experiments.runs.run_state import read_state
from rl_unlearn.adapters.adapter_file import locate, metadata
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.models import foundation

CONFIGS = Path(__file__).parent.parent / "configs"


def add_config(parser: ArgumentParser) -> None:
    """Adds `--config FILE` and KEY=VALUE."""
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML file; later ones win"
    )
    add_overrides(parser)


def add_overrides(parser: ArgumentParser) -> None:
    """Adds KEY=VALUE, anywhere on the line."""
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="such as concept=frog learner.lr=1e-4"
    )


def add_cluster(
    parser: ArgumentParser, inline: str = "run every actor in this process, without Ray"
) -> None:
    """Adds where the actors run; `inline` is the help of that flag."""
    parser.add_argument("--inline", action="store_true", help=inline)
    parser.add_argument(
        "--address",
        metavar="A",
        help="existing Ray cluster; `auto` finds the one around this machine",
    )


def add_no_evaluate(parser: ArgumentParser) -> None:
    """Adds `--no-evaluate`."""
    parser.add_argument("--no-evaluate", action="store_true", help="train only")


def cluster_overrides(args: Namespace) -> list[str]:
    """Returns the flags of `add_cluster` as overrides."""
    chosen = ["cluster.inline=true"] if args.inline else []
    return chosen + ([f"cluster.address={args.address}"] if args.address else [])


def concern(overrides: list[str], *sections: str) -> bool:
    """Returns whether all overrides are about these sections, or where things run and are kept."""
    return all(
        override.startswith((*(f"{s}." for s in sections), "cluster.", "output="))
        for override in overrides
    )


def run_config(path: Path, overrides: list[str], only_drawn: bool = False) -> Config:
    """Returns the configuration an adapter was trained with, and `overrides`.

    It comes from its run folder or its own metadata. Variables of the environment are for new runs:
    they would judge a run as another one than it was. Raises DataError, which names the run, if
    what it stands on is not as it was, unless `overrides` say otherwise; with `only_drawn` only
    what decides an image counts, not who judges it.
    """
    folder = next(
        (folder for folder in (path, path.parent, path.parent.parent) if is_run(folder)), None
    )
    if folder is not None:
        config = settings.recorded(
            folder / "config.yaml", [f"output={folder.absolute().parent}", *overrides]
        )
        recorded = read_state(folder).stands_on
    else:
        locate(path)  # before anything heavy
        from experiments.export.adapters import described

        config = settings.load([], [*described(path), *overrides], environ={})
        recorded = parse_object(
            metadata(path).get("stands_on", "{}"), f"what {path} says that it stands on"
        )
    kinds = [
        kind
        for kind in foundation.KINDS
        if not any(o.startswith(_TOLD_ANEW[kind]) for o in overrides)
    ]
    if only_drawn:
        kinds = [kind for kind in kinds if kind in foundation.DRAWN]
    if recorded and kinds:
        foundation.check(recorded, _below(config, kinds, path), str(path), kinds)
    return config


_TOLD_ANEW = {
    foundation.MODEL: ("model.path=", "model.config=", "model.revision=", "model.variant="),
    foundation.ADAPTER: ("model.adapters=",),
    foundation.LISTS: ("prompts.target_file=", "prompts.retain_file="),
    foundation.CLIPS: ("reward.clip=", "selection.clip="),
    foundation.CLASSIFIERS: ("reward.images=",),
}
"""Overrides by which a command says itself what a run shall stand on."""


def _below(config: Config, kinds: list[str], whose: Path) -> dict[str, str]:
    judged = set(kinds) - set(foundation.DRAWN)
    try:
        return foundation.of_run(config) if judged else foundation.of_model(config.model)
    except DataError as error:
        raise DataError(f"{whose}: {error}") from error
