"""`export`: an adapter for other programs."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.console import say
from experiments.verbs import common
from rl_unlearn.errors import ConfigError

HELP = (
    "write an adapter in diffusers or kohya keys, or merged into its model; checked against the "
    "original"
)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `export` takes."""
    parser.add_argument(
        "run", metavar="RUN", help="run folder, adapter folder or .safetensors file"
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=("diffusers", "kohya", "merged"),
        help="adapter in these keys, or a whole pipeline",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also put that folder into a new repository of the Hugging Face hub, a private one",
    )
    parser.add_argument("--public", action="store_true", help="let everybody see that repository")
    common.add_config_beside(parser)
    common.add_overrides(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Converts, checks and writes an adapter."""
    from rl_unlearn.adapters.adapter import read_adapter

    if args.public and not args.push:
        raise ConfigError("--public is about a repository: name it by --push OWNER/NAME")
    if args.push:
        _check(Path(args.out), args.push)
    read_adapter(args.run)
    config = common.run_config(Path(args.run), args.overrides, only_drawn=True, files=args.config)
    from experiments.export import adapters

    written = adapters.export(Path(args.run), args.format, Path(args.out), config)
    say(
        console,
        f"{written['file']}: {written['tensors']} tensors, same output as the run's adapter "
        f"(largest difference {written['largest_difference']:.1g})",
    )
    if written.get("left_out"):
        say(
            console,
            f"warning: {', '.join(written['left_out'])} of the model is not on this machine, and "
            "not in the copy",
        )
    if args.push:
        from experiments.export import sharing

        message = f"{config.run_name}: forgetting {config.concept}"
        place = sharing.push(Path(args.out), args.push, args.public, message)
        say(console, f"{place}: {'for everybody' if args.public else 'private'}")
        return written | {"pushed": place}
    return written


def _check(out: Path, name: str) -> None:
    """Raises before anything is computed if the folder could not be pushed as it will be."""
    from experiments.export import sharing

    sharing.check_name(name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out} holds something already, which would be pushed, too; choose another --out"
        )
    sharing.check_free(name)
