"""`evaluate`: the judges' view of an adapter, before and after."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.files import write_json
from experiments.verbs import common

HELP = "judge an adapter: concept forgotten, the rest kept"


def add_arguments(parser: ArgumentParser) -> None:
    """What `evaluate` takes."""
    parser.add_argument("adapter", metavar="RUN_OR_ADAPTER", help="run folder, adapter folder or .safetensors file")
    common.add_overrides(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Evaluate; a run folder gets the result as its `evaluation.json` and a fresh report."""
    path = Path(args.adapter)
    from rl_unlearn.adapter import read_adapter

    state = read_adapter(path)
    config = common.run_config(path, args.overrides)
    from experiments import measuring
    from experiments.models import load_model
    from experiments.report import read_json, write_report
    from rl_unlearn.evaluation import load_judge
    from rl_unlearn.policy import DiffusionPolicy
    from rl_unlearn.prompts import PromptBook

    book, judge = PromptBook.from_config(config), load_judge(config)
    policy = DiffusionPolicy(load_model(config.model), config)
    policy.load_adapter(state)
    training = read_json(path / "run_state.json").get("training", {})
    evaluation = measuring.before_after(policy, book, judge, config, console)
    evaluation |= training | {"seed": config.seed, "concept": config.concept}
    measuring.show(evaluation, console)
    if not training:
        return evaluation
    if all(override.startswith("evaluation.") for override in args.overrides):
        write_json(path / "evaluation.json", evaluation)
        write_report(path)
    else:
        console.print("the run's evaluation.json stays: the model or the concept was overridden")
    return evaluation
