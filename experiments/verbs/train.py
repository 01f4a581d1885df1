"""`train`: one run, from a configuration to an adapter with its evaluation and report."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster import address
from experiments import settings
from experiments.console import say
from experiments.doctor import preflight
from experiments.mirror import fetching, opening
from experiments.mirror.mirror import Mirror
from experiments.runs import replacing, resuming, run_folder, submitting, tracking
from experiments.runs.run_state import RunState, read_state
from experiments.verbs import common
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError

if TYPE_CHECKING:
    from learner.events import Emit
    from rl_unlearn.image_rewards import ImageReward

HELP = "train an adapter that forgets a concept"


@dataclass(frozen=True)
class Brought:
    """What a program brings along and no command line can."""

    emit: "Emit | None" = None
    """Takes every event of the training."""
    functions: "Mapping[str, ImageReward]" = field(default_factory=dict)
    """Functions of the image by the names that the configuration calls them by."""


NOTHING = Brought()


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `train` takes."""
    common.add_config(parser)
    common.add_cluster(parser)
    common.add_no_evaluate(parser)
    parser.add_argument("--name", metavar="N", help="run name; default CONCEPT-seedSEED")
    parser.add_argument(
        "--on",
        metavar="RUN",
        help="forget on top of what that run forgot; both adapters are needed",
    )
    parser.add_argument(
        "--start",
        metavar="RUN",
        help="go on from the adapter of that run, such as an erasure's, in place of a fresh one",
    )
    parser.add_argument(
        "--critic-from", metavar="RUN", help="start from the critic of that run folder"
    )
    parser.add_argument(
        "--resume",
        choices=["auto"],
        help="auto: go on from this run's newest checkpoint if it was started before",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run of this name")
    common.add_submit(parser)
    parser.add_argument(
        "--plan", action="store_true", help="only say what the run will cost; reads no weights"
    )
    parser.add_argument(
        "--mfu", metavar="X", help="plan: share of the peak that is used; default 0.4"
    )
    parser.add_argument(
        "--tflops", metavar="X", help="plan: peak of a card in TFLOP/s, if it is not known"
    )


def _on_top(run: Path) -> list[str]:
    below = common.run_config(run, [], only_drawn=True).model.adapters
    return [f"model.adapters={','.join([*below, str(run.absolute())])}"]


def _from(args: Namespace) -> list[str]:
    """Returns what the adapter to start from decides; what the command line says comes after it."""
    if not args.start:
        return []
    run = Path(args.start)
    config = common.run_config(run, [], only_drawn=True)
    lora, below = config.lora, ",".join(config.model.adapters)
    shape = [f"lora.rank={lora.rank}", f"lora.layers={lora.layers}"]
    return [*shape, f"lora.start={run.absolute()}", *([f"model.adapters={below}"] if below else [])]


def _others(args: Namespace) -> list[str]:
    """Returns what other runs give, as overrides."""
    below = _on_top(Path(args.on)) if args.on else []
    return below + ([f"critic.start={args.critic_from}"] if args.critic_from else [])


def _plan(overrides: list[str], args: Namespace, console: Console) -> dict[str, Any]:
    mfu, tflops = _positive("--mfu", args.mfu), _positive("--tflops", args.tflops)
    if mfu is not None and mfu > 1:
        raise ConfigError(
            f"--mfu {args.mfu} is more than all of the peak: give a share, such as 0.4"
        )
    config = settings.load(args.config, _from(args) + overrides + _others(args))
    from experiments.plan import page, speeds
    from experiments.plan.make import make

    plan = make(config, not args.no_evaluate, tflops, mfu or speeds.MFU)
    page.show(plan, console)
    return plan


def _positive(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(f"{flag} {text!r} is no positive number")
    return number


def run(args: Namespace, console: Console, brought: Brought = NOTHING) -> dict[str, Any]:
    """Checks everything cheap, then trains."""
    if args.resume and args.overwrite:
        raise ConfigError(
            "--resume goes on with a run and --overwrite replaces it: give one of them"
        )
    if args.on and args.start:
        raise ConfigError(
            "--on puts a new adapter on top of a run's and --start goes on with a run's own: give "
            "one of them"
        )
    overrides = (
        args.overrides
        + common.cluster_overrides(args)
        + ([f"name={args.name}"] if args.name else [])
    )
    if args.plan:
        return _plan(overrides, args, console)
    if args.mfu or args.tflops:
        raise ConfigError("--mfu and --tflops say how long a run takes: give them with --plan")
    if args.submit:  # other runs are looked up where the job will be
        return _submit(settings.load(args.config, overrides), args, console)
    config = settings.load(args.config, _from(args) + overrides + _others(args))
    path = Path(config.output) / config.run_name
    replacing.restore(path)
    if not args.resume:
        run_folder.reserve(config, args.overwrite)  # before a store is asked, which takes seconds
    with opening.held(config, console) as mirror:
        if mirror is not None:
            look = partial(say, console)
            if args.resume:
                fetching.go_on_here(mirror, path, look)
            elif not args.overwrite:
                fetching.check_free(mirror, look)
        if args.resume and resuming.is_run(path) and run_folder.has_begun(path):
            return go_on(config, args, console, mirror, brought)
        folder = run_folder.reserve(config, args.overwrite)
        return start(config, folder, args, console, mirror=mirror, brought=brought)


def _submit(config: Config, args: Namespace, console: Console) -> dict[str, Any]:
    if config.cluster.inline:
        raise ConfigError("--submit runs on a cluster, --inline without one: leave one of them out")
    submitting.check_output(config)
    path = Path(config.output) / config.run_name
    return submitting.submit(path, args, console, again="; `--resume auto` goes on with it")


def go_on(
    config: Config,
    args: Namespace,
    console: Console,
    mirror: Mirror | None = None,
    brought: Brought = NOTHING,
) -> dict[str, Any]:
    """Trains on from the newest checkpoint of the run that `config` names.

    If there is none yet, from the start.
    """
    path = Path(config.output) / config.run_name
    config = resuming.as_begun(path, config)
    resuming.check(path, config)
    if resuming.is_finished(path, config):
        say(console, f"{path} is finished; raise loop.rounds to train on")
        if mirror is not None and not mirror.has(path):
            folder = run_folder.RunFolder(path, read_state(path))
            folder.update(mirrored=mirror.begin(path, folder.state.mirrored))
            return {"run": str(path), "finished": True} | _copied(path, mirror, console)
        return {"run": str(path), "finished": True}
    resuming.check_longer(path)
    trial = read_state(path).trial  # it stays one of its sweep
    state = RunState(trial=trial) if trial else RunState()
    folder = run_folder.RunFolder(path, state)
    return start(config, folder, args, console, resumed=True, mirror=mirror, brought=brought)


def start(
    config: Config,
    folder: run_folder.RunFolder,
    args: Namespace,
    console: Console,
    resumed: bool = False,
    supervised: bool = False,
    mirror: Mirror | None = None,
    brought: Brought = NOTHING,
) -> dict[str, Any]:
    """Checks what is below the run, carries it out and shows what came of it; returns that."""
    tracking.check(config)
    notes = preflight.check(config, not args.no_evaluate, brought.functions)
    for note in notes:
        say(console, f"warning: {note}")
    if not config.cluster.inline:
        address.check(config)
    from experiments import run as whole_run
    from experiments.evaluation import comparing
    from rl_unlearn.evaluation.record import Evaluation

    outcome = whole_run.run(
        config, folder, args.argv, not args.no_evaluate, console, resumed, brought.emit,
        notes=notes, supervised=supervised, mirror=mirror, functions=brought.functions,
    )  # fmt: skip
    if "after" in outcome:
        comparing.show(Evaluation.model_validate(outcome), console)
    say(
        console,
        f"{outcome['images_used']:,} images, {outcome['updates']:,} "
        f"{'steps' if supervised else 'updates'}, "
        f"{outcome['wall_seconds']:.0f} seconds\n"
        f"report: {outcome['report']}",
    )
    return outcome | (_copied(folder.path, mirror, console) if mirror is not None else {})


def _copied(path: Path, mirror: Mirror, console: Console) -> dict[str, Any]:
    """Copies a finished run as a whole; returns where to."""
    rounds = settings.recorded(path / "config.yaml").loop.rounds
    with console.status(f"copying the run to {mirror.store.place}"):
        place = mirror.finish(path, rounds, partial(say, console))
    say(console, f"copied to {place}")
    return {"mirror": place}
