"""Arguments that several verbs share."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments import settings
from rl_unlearn.config import Config

CONFIGS = Path(__file__).parent.parent / "configs"


def add_config(parser: ArgumentParser) -> None:
    """`--config FILE` and KEY=VALUE."""
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file; later ones win")
    add_overrides(parser)


def add_overrides(parser: ArgumentParser) -> None:
    """KEY=VALUE, anywhere on the line."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as concept=frog learner.lr=1e-4")


def add_cluster(parser: ArgumentParser) -> None:
    """Where the actors run."""
    parser.add_argument("--inline", action="store_true", help="run every actor in this process, without Ray")
    parser.add_argument("--address", metavar="A", help="existing Ray cluster; `auto` finds the one around this machine")
    parser.add_argument("--no-evaluate", action="store_true", help="train only")


def cluster_overrides(args: Namespace) -> list[str]:
    """The flags of `add_cluster` as overrides."""
    chosen = ["cluster.inline=true"] if args.inline else []
    return chosen + ([f"cluster.address={args.address}"] if args.address else [])


def concern(overrides: list[str], *sections: str) -> bool:
    """Whether all overrides are about these sections, or about where things run and are kept."""
    return all(override.startswith((*(f"{s}." for s in sections), "cluster.", "output=")) for override in overrides)


def run_config(path: Path, overrides: list[str]) -> Config:
    """The configuration an adapter was trained with, from its run folder or its own metadata, and `overrides`.

    Variables of the environment are for new runs: they would judge a run as another one than it was.
    """
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file() and (folder / "run_state.json").is_file():
            return settings.recorded(folder / "config.yaml", overrides)
    from experiments.adapters import described

    return settings.load([], [*described(path), *overrides], environ={})
