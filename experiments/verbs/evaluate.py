"""`evaluate`: the judges' view of one adapter, or of several side by side, against the untouched
model.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments import settings
from experiments.console import say
from experiments.files import write_json
from experiments.runs import submitting
from experiments.runs.run_state import Training, read_state
from experiments.verbs import common
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models import model_folder
from rl_unlearn.models.location import fetched_folder

if TYPE_CHECKING:
    from experiments.evaluation.comparing import Candidate

HELP = "judge adapters against the untouched model: concept forgotten, the rest kept"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `evaluate` takes."""
    parser.add_argument(
        "adapters", nargs="+", metavar="RUN_OR_ADAPTER",
        help=(
            "run folders, adapter folders or .safetensors files, judged side by side; KEY=VALUE "
            "among them overrides"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--full", action="store_true", help="UnlearnCanvas's protocol: every prompt with 5 seeds"
    )
    common.add_scheduler(parser)
    parser.add_argument("--out", metavar="FILE", help="also write the whole comparison as JSON")
    common.add_config_beside(parser)
    common.add_submit(parser)
    parser.set_defaults(overrides=[])


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Evaluates adapters.

    A run folder gets its own result as `evaluation.json` and a fresh report; where its images were
    drawn otherwise than the run's own evaluation draws them, as a file of its own beside that.
    """
    words = [*args.adapters, *args.overrides]
    paths = [Path(word) for word in words if _is_path(word)]
    overrides = ["evaluation.per_prompt=5"] * args.full + common.scheduler_overrides(args)
    overrides += [word for word in words if not _is_path(word)]
    if not paths:
        raise ConfigError(
            "nothing to judge: give RUN_OR_ADAPTER, a run folder, adapter folder or .safetensors "
            "file"
        )
    if args.submit:
        submitting.check_shared([*paths, *([Path(args.out)] if args.out else [])])
        return submitting.submit(paths[0], args, console, name=f"evaluate-{paths[0].stem}")
    if args.out and not Path(args.out).absolute().parent.is_dir():
        raise ConfigError(
            f"--out {args.out}: there is no folder {Path(args.out).absolute().parent}"
        )
    from rl_unlearn.adapters.adapter import read_adapter

    states = [read_adapter(path) for path in paths]
    configs = [common.run_config(path, overrides, files=args.config) for path in paths]
    config = _shared(paths, configs)
    model_folder.check_schedule(fetched_folder(config.model), Schedule.of(config))
    from experiments.evaluation import comparing
    from experiments.evaluation.models import quiet
    from experiments.export.card import write_card
    from experiments.report.report import write_report
    from rl_unlearn.evaluation import record
    from rl_unlearn.evaluation.judges import load_judge
    from rl_unlearn.prompts import PromptBook

    book, judge = PromptBook.from_config(config), load_judge(config)
    quiet()
    names = _names(paths)
    trained = [_training(path) for path in paths]
    candidates = [
        _candidate(*parts) for parts in zip(names, paths, configs, states, trained, strict=True)
    ]  # fmt: skip
    compared = comparing.judge_side_by_side(candidates, book, judge, config, console)
    sides = []
    for number, (path, trained_with, training) in enumerate(
        zip(paths, configs, trained, strict=True)
    ):
        about = training | {"seed": trained_with.seed, "concept": trained_with.concept}
        side = compared.evaluation(number).model_copy(update=about)
        sides.append(side)
        if training and common.concern(overrides, "evaluation"):
            name = _file_name(path, trained_with)
            write_json(path / name, side.content())
            write_card(path, path / "adapter", trained_with)
            write_report(path)
            if name != record.NAME:
                say(console, f"{path / name}; the run's {record.NAME} stays")
        elif training:
            say(
                console,
                f"{path}: its evaluation.json stays: more than the evaluation was overridden",
            )
    whole = sides[0].model_copy(update={"models": [compared.untouched, *compared.rows]})
    comparing.show(whole, console)
    if args.out:
        write_json(Path(args.out), whole.content())
    return whole.content()


def _file_name(path: Path, config: Config) -> str:
    """Returns the file of a run's evaluation: its own, or another one where the run itself says to
    draw otherwise.
    """
    from rl_unlearn.evaluation import record

    schedule = Schedule.of(config)
    if schedule == Schedule.of(settings.recorded(path / "config.yaml")):
        return record.NAME
    if schedule is None:
        return record.other_name(None, config.sampler.steps)
    return record.other_name(schedule.name, schedule.steps)


def _training(path: Path) -> dict[str, Any]:
    """Returns what the training of a run took; empty if `path` is no run."""
    known = set(Training.model_fields)
    return read_state(path).training.model_dump(exclude_unset=True, include=known)


def _candidate(
    name: str, path: Path, config: Config, state: dict[str, Any], training: dict[str, Any]
) -> "Candidate":
    from experiments.evaluation.comparing import Candidate
    from rl_unlearn.adapters.adapter_file import locate

    return Candidate(
        name, config.lora, state, locate(path).stat().st_size, training.get("wall_seconds")
    )


def _is_path(word: str) -> bool:
    return "=" not in word or Path(word).exists()


def _shared(paths: list[Path], configs: list[Config]) -> Config:
    """Returns the first adapter's configuration.

    All must agree on what is drawn and forgotten, or figures mean nothing.
    """
    first = configs[0]
    for path, other in zip(paths[1:], configs[1:], strict=True):
        for key in (
            "concept",
            "model",
            "sampler",
            "prompts",
            "reward.clip",
            "selection.clip",
            "evaluation",
        ):
            values = [settings.value(config, key) for config in (first, other)]
            if values[0] != values[1]:
                raise ConfigError(
                    f"{path} and {paths[0]} differ in {key} ({values[1]} and {values[0]}): give "
                    f"{key} for both as an override, or judge them apart"
                )
    return first


def _names(paths: list[Path]) -> list[str]:
    """Returns the runs' or adapters' names, numbered where two share one."""
    names: list[str] = []
    for path in paths:
        path = path.resolve()
        name = (
            path.parent.name
            if path.name == "adapter"
            else path.stem
            if path.is_file()
            else path.name
        )
        number = 1 + sum(known.partition(" (")[0] == name for known in names)
        names.append(name if number == 1 and name != "untouched" else f"{name} ({number})")
    return names
