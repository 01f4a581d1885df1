"""Attacks for a person who waits: a bar while they run, a table at the end."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.console import say
from rl_unlearn.attacks.record import Attacks
from rl_unlearn.attacks.table import Bench
from rl_unlearn.config import Config
from rl_unlearn.evaluation.judges import Judge
from rl_unlearn.evaluation.record import Figure
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def attack(
    policy: DiffusionPolicy, book: PromptBook, judge: Judge, config: Config, console: Console
) -> Attacks:
    """Carries all attacks out on a policy; a live bar on a terminal, plain lines elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("attacking", total=None)
        last = ""

        def tell(text: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, description=text, completed=done, total=total)
            if not console.is_terminal and text != last:
                say(console, f"{done}/{total}  {text}")
            last = text

        return Bench(policy, book, judge, config, tell).table()


def show(attacks: Attacks, console: Console) -> None:
    """Prints a row for each attack: success rate with its interval, before and after."""
    table = Table(title=f"attacks on {attacks.concept}, seed {attacks.seed}", title_justify="left")
    for heading in ("attack", "budget"):
        table.add_column(heading)
    for heading in ("untouched, %", "adapter, %", "seconds"):
        table.add_column(heading, justify="right")
    for row in attacks.rows:
        table.add_row(
            row.attack, row.budget, _text(row.before), _text(row.after), f"{row.seconds:.0f}"
        )
    console.print(table)


def _text(rate: Figure) -> str:
    return f"{rate.value:.1f} ({rate.low:.1f} to {rate.high:.1f})"
