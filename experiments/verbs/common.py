"""Arguments that several verbs share."""

from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

from experiments import agreement, settings
from experiments.runs.resuming import is_run
from experiments.runs.run_state import read_state
from rl_unlearn.adapters.adapter_file import locate, metadata
from rl_unlearn.config import Config
from rl_unlearn.config.judging import SchedulerName
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.models import foundation


def add_config(parser: ArgumentParser) -> None:
    """Adds `--config` and KEY=VALUE."""
    add_files(parser, "a shipped configuration by name, or a YAML file; later ones win")
    add_overrides(parser)


def add_config_beside(parser: ArgumentParser) -> None:
    """Adds `--config` where a run or an adapter brings its own configuration along."""
    add_files(
        parser, "a shipped name or YAML file beside the run's own, which it may not contradict"
    )


def add_files(parser: ArgumentParser, help: str) -> None:
    """Adds `--config` alone."""
    parser.add_argument("--config", action="append", default=[], metavar="NAME_OR_FILE", help=help)


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


def add_submit(parser: ArgumentParser) -> None:
    """Adds `--submit`."""
    parser.add_argument(
        "--submit",
        metavar="URL",
        help="run as a job on the Ray cluster whose head is at http://HOST:8265",
    )


def add_no_evaluate(parser: ArgumentParser) -> None:
    """Adds `--no-evaluate`."""
    parser.add_argument("--no-evaluate", action="store_true", help="train only")


def add_scheduler(parser: ArgumentParser) -> None:
    """Adds `--scheduler`."""
    parser.add_argument(
        "--scheduler",
        choices=get_args(SchedulerName),
        help="draw by this scheduler of diffusers in place of the training's kernel",
    )


def scheduler_overrides(args: Namespace) -> list[str]:
    """Returns the flag of `add_scheduler` as overrides."""
    return [f"evaluation.scheduler={args.scheduler}"] if args.scheduler else []


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


def run_config(
    path: Path, overrides: list[str], only_drawn: bool = False, files: Sequence[str] = ()
) -> Config:
    """Returns the configuration an adapter was trained with, then `files`, then `overrides`.

    It comes from its run folder or its own metadata, which `files` may not contradict. Variables of
    the environment are for new runs: they would judge a run as another one than it was. Raises
    DataError, which names the run, if what it stands on is not as it was, unless `overrides` say
    otherwise; with `only_drawn` only what decides an image counts, not who judges it.
    """
    folder = next(
        (folder for folder in (path, path.parent, path.parent.parent) if is_run(folder)), None
    )
    if folder is not None:
        place = f"output={folder.absolute().parent}"
        config = beside(folder, files, [place, *overrides], agreement.FREE)
        recorded = read_state(folder).stands_on
    else:
        locate(path)  # before anything heavy
        from experiments.export.adapters import described

        told = settings.from_overrides(described(path))
        news = agreement.taken(files, overrides, told, str(path))
        config = settings.combined(told, news, settings.from_overrides(overrides))
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


def beside(
    folder: Path, files: Sequence[str], overrides: list[str], free: Collection[str]
) -> Config:
    """Returns a run's recorded configuration, then what `files` may say beside it, then overrides.

    What is `free` may differ (`agreement.taken`).
    """
    told = settings.from_files([str(folder / "config.yaml")])
    asked = read_state(folder).revision_asked
    news = agreement.taken(files, overrides, told, str(folder), free, asked)
    return settings.combined(told, news, settings.from_overrides(overrides))


_TOLD_ANEW = {
    foundation.MODEL: ("model.path=", "model.config=", "model.revision=", "model.variant="),
    foundation.ADAPTER: ("model.adapters=",),
    foundation.LISTS: ("prompts.target_file=", "prompts.retain_file="),
    foundation.CLIPS: ("reward.clip=", "selection.clip="),
    foundation.CLASSIFIERS: ("reward.images=", "concept=", "selection.image="),
}
"""Overrides by which a command says itself what a run shall stand on."""


def _below(config: Config, kinds: list[str], whose: Path) -> dict[str, str]:
    judged = set(kinds) - set(foundation.DRAWN)
    try:
        return foundation.of_run(config) if judged else foundation.of_model(config.model)
    except DataError as error:
        raise DataError(f"{whose}: {error}") from error
