"""`sweep`: many runs that differ in some settings, on Ray Tune, with a table and the front of
trade-offs at the end.
"""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster import address
from experiments import presets, settings
from experiments.console import say
from experiments.runs import submitting
from experiments.verbs import common
from rl_unlearn.config import NAME, Config
from rl_unlearn.errors import ConfigError

if TYPE_CHECKING:
    from experiments.sweep.folder import SweepFolder
    from experiments.sweep.space import Space

HELP = "train many settings on Ray Tune and compare them: grids, searches, seeds"
FAILED = 4


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `sweep` takes."""
    common.add_config(parser)
    parser.add_argument(
        "--space",
        metavar="NAME_OR_FILE",
        help="what varies: a shipped space by name, such as seeds, or a YAML file",
    )
    parser.add_argument("--name", metavar="N", help="name of the sweep; default the space file's")
    common.add_submit(parser)
    common.add_cluster(
        parser,
        inline="each trial in one process (default on the canvas; cluster.inline=false gives each "
        "its own actors)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a killed sweep: only what is not done yet"
    )
    parser.add_argument(
        "--table",
        metavar="NAME",
        help="only make the table, pictures and report of that sweep anew",
    )


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Checks everything cheap, then runs the trials that are not done and sums up all."""
    if args.table:
        return _finish(_folder(args, args.table), console)
    overrides = args.overrides + common.cluster_overrides(args)
    if args.submit:
        return _submit(args, overrides, console)
    folder, base, space = _resumed(args, overrides) if args.resume else _new(args, overrides)
    address.check(base)
    from experiments.sweep.trials import run_all

    with folder.running(base, space):
        run_all(folder.path.resolve(), base, space, console)
        return _finish(folder, console)


def _submit(args: Namespace, overrides: list[str], console: Console) -> dict[str, Any]:
    """Checks what can be told here, and sends the command."""
    base = _base(args.config, overrides)
    submitting.check_output(base)
    if args.space:
        from experiments.sweep.space_file import read

        read(presets.space_file(args.space), base)
    elif not args.resume:
        raise ConfigError("nothing to vary: give --space NAME_OR_FILE, such as --space seeds")
    folder = _folder(args, _name(args, None if args.resume else base)).path
    return submitting.submit(folder, args, console, again="; `--resume` goes on with it")


def _new(args: Namespace, overrides: list[str]) -> tuple["SweepFolder", Config, "Space"]:
    from experiments.sweep.space_file import read

    if not args.space:
        raise ConfigError("nothing to vary: give --space NAME_OR_FILE, such as --space seeds")
    base = _base(args.config, overrides)
    space = read(presets.space_file(args.space), base)
    folder = _folder(args, _name(args, base))
    folder.check_new()
    _check_worlds(base, space)
    return folder, base, space


def _check_worlds(base: Config, space: "Space") -> None:
    """Raises the first UserError of the concepts, prompts and models that trials will have.

    Each is checked once, before any trial begins.
    """
    from experiments.doctor import preflight
    from experiments.sweep.space import configured

    known = set()
    for drawn in space.enumerated():
        config = configured(base, drawn, "space")
        world = (config.concept, config.prompts, config.reward.anchor, config.model)
        if repr(world) not in known:
            known.add(repr(world))
            preflight.check(config)


def _resumed(args: Namespace, overrides: list[str]) -> tuple["SweepFolder", Config, "Space"]:
    from experiments.sweep.space_file import read

    folder = _folder(args, _name(args, None))
    folder.check_resumable()
    base = (
        _base(args.config, overrides) if args.config else settings.recorded(folder.base, overrides)
    )
    space = read(presets.space_file(args.space) if args.space else folder.space, base)
    folder.check_same(base, space)
    return folder, base, space


def _base(files: list[str], overrides: list[str]) -> Config:
    """Returns the configuration that all trials share.

    On the canvas a trial is one process unless the command says otherwise.
    """
    small = settings.load(files, overrides).model.path == "canvas"
    return settings.load(files, ["cluster.inline=true"] * small + overrides)


def _name(args: Namespace, base: Config | None) -> str:
    """Returns the sweep's name; `base`: None for one that is gone on with, whose configuration lies
    in the folder of that name.
    """
    of_space = Path(args.space).stem if args.space else None
    name = args.name or (base.name if base else None) or of_space
    if not name:
        raise ConfigError("--resume needs --name N, the sweep to go on with")
    return str(name)


def _folder(args: Namespace, name: str) -> "SweepFolder":
    from experiments.sweep.folder import SweepFolder

    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"sweep name {name!r}: use up to 64 letters, digits, '.', '_' or '-'; set it by --name"
        )
    config = settings.load(args.config, args.overrides)
    if config.mirror is not None:
        raise ConfigError(
            "a sweep is not copied to a store: give output= a local or mounted folder, and leave "
            "mirror out"
        )
    folder = SweepFolder(Path(config.output) / name)
    if args.table:
        folder.check_resumable()
    return folder


def _finish(folder: "SweepFolder", console: Console) -> dict[str, Any]:
    from experiments.sweep.summary import summarize

    outcome = summarize(folder.path)
    lines = [f"{name}: failed: {reason}" for name, reason in outcome["failed"].items()]
    lines.append(
        f"{outcome['finished']} of {outcome['trials']} trials finished, {outcome['stopped']} "
        "stopped, "
        f"{len(outcome['failed'])} failed\ntable: {outcome['table']}\n"
        f"report: {outcome['report']}"
    )
    say(console, "\n".join(lines))
    return outcome | {"exit_code": FAILED if outcome["failed"] else 0}
