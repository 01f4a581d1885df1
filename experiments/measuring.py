"""Before and after: the judges' view of a policy with its adapter off and on."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.report import MEASURES
from rl_unlearn.config import Config
from rl_unlearn.evaluation import Judge, evaluate
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def before_after(
    policy: DiffusionPolicy, book: PromptBook, judge: Judge, config: Config, console: Console
) -> dict[str, Any]:
    """`{"before", "after", "counts"}`: headline percents of the untouched model and of the adapter, same noise."""
    sides: dict[str, Any] = {}
    by_concept = {}
    for side, adapted in (("before", False), ("after", True)):
        with console.status(f"evaluating {side}"), policy.adapter_enabled(adapted):
            scores = evaluate(policy, book, judge, config)
        sides[side] = scores.headline()
        by_concept[side] = scores.by_concept
    return sides | {"counts": {**scores.counts, "seen_as": scores.seen_as, "by_concept": by_concept}}


def show(evaluation: dict[str, Any], console: Console) -> None:
    """A small table of both sides."""
    table = Table(title=f"forgetting {evaluation['concept']}, seed {evaluation['seed']}", title_justify="left")
    table.add_column("percent")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, key, _ in MEASURES:
        table.add_row(name, f"{evaluation['before'][key]:.1f}", f"{evaluation['after'][key]:.1f}")
    console.print(table)
