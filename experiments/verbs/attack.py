"""`attack`: whether the forgotten concept can be brought back."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.console import say
from experiments.files import write_json
from experiments.runs import submitting
from experiments.runs.run_state import read_state
from experiments.verbs import common
from rl_unlearn import reward_names
from rl_unlearn.errors import ConfigError
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import read_layout

HELP = "attack an adapter: adversarial prefix, concept inversion, relearning"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `attack` takes."""
    parser.add_argument(
        "adapter", metavar="RUN_OR_ADAPTER", help="run folder, adapter folder or .safetensors file"
    )
    common.add_config_beside(parser)
    common.add_overrides(parser)
    common.add_submit(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Attacks the adapter and the untouched model.

    A run folder gets `attacks.json` and a fresh report.
    """
    path = Path(args.adapter)
    if args.submit:
        submitting.check_shared([path])
        return submitting.submit(path, args, console, name=f"attack-{path.stem}")
    from rl_unlearn.adapters.adapter import read_adapter

    state = read_adapter(path)
    config = common.run_config(path, args.overrides, files=args.config)
    if reward_names.trait(config.concept) is not None:
        raise ConfigError(
            f"attack searches for words that bring a concept back, and no word names "
            f"{config.concept!r}: evaluate it with another evaluation.seed instead"
        )
    layout = read_layout(fetched_folder(config.model))
    if not layout.one_vocabulary:
        raise ConfigError(
            f"attack is not for a {layout.pipeline}: its prefix and inversion search the "
            "vocabulary of a single CLIP"
        )
    from experiments.evaluation import attacking
    from experiments.evaluation.models import load_model
    from experiments.report.report import write_report
    from rl_unlearn.attacks import record
    from rl_unlearn.evaluation.judges import load_judge
    from rl_unlearn.policy import DiffusionPolicy
    from rl_unlearn.prompts import PromptBook

    book, judge = PromptBook.from_config(config), load_judge(config)
    policy = DiffusionPolicy(load_model(config.model), config)
    policy.load_adapter(state)
    outcome = attacking.attack(policy, book, judge, config, console)
    attacking.show(outcome, console)
    if not read_state(path).model_fields_set:
        return outcome.content()
    if common.concern(args.overrides, "attack", "evaluation"):
        write_json(path / record.NAME, outcome.content())
        write_report(path)
        say(console, f"attacks: {path / record.NAME}")
    else:
        say(console, "the run's attacks.json stays: more than the attack was overridden")
    return outcome.content()
