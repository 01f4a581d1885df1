"""All trials of a sweep on Ray: told as they start and end, and their ends written down, however
they came.
"""

from pathlib import Path

from rich.console import Console

from cluster import connection, placement, tuning
from experiments import signals
from experiments.console import say
from experiments.runs.run_state import read_state
from experiments.sweep.space import Settings, Space, configured
from experiments.sweep.trial import Trials, note
from rl_unlearn.config import Config

STOPPED = "the sweep was stopped; --resume starts this trial again"


def run_all(root: Path, base: Config, space: Space, console: Console) -> None:
    """Runs what is not done yet; a failed trial ends with a note in its folder, and the others go
    on.
    """
    trials = Trials(root, base, space)
    asha = space.file.stop == "asha"
    plan = tuning.Plan(
        draws=space.draws(),
        folder=root,
        seed=base.seed,
        trials=space.trials,
        samples=space.file.samples or 1,
        objectives=space.objectives,
        grace=(space.file.grace or 1) if asha else None,
        rounds=_rounds(base, space) if asha else 1,
        concurrent=space.file.concurrent,
    )
    progress = _Progress(trials, console)
    try:
        with connection.ray_cluster(base):
            signals.install()  # Ray sets its own handlers
            placement.check_room(
                trials.needs(configured(base, next(space.enumerated(), {}), "space"))
            )
            tuning.search(plan, trials, trials.places, trials.name, progress)
    finally:  # after Ray is gone: no trial writes any more
        for drawn, (verdict, reason) in progress.known.values():
            note(root / trials.name(drawn), trials.about(drawn), verdict, reason)


def _rounds(base: Config, space: Space) -> int:
    """Returns the rounds of the longest trial."""
    draw = space.ranges.get("loop.rounds")
    listed = [*space.lists.get("loop.rounds", ()), *space.choices.get("loop.rounds", ())]
    mixed = [mix.settings["loop.rounds"] for mix in space.mixes if "loop.rounds" in mix.settings]
    rounds: int = max([base.loop.rounds, *listed, *mixed, *(draw.arguments if draw else ())])
    return rounds


class _Progress:
    """A line for each trial that starts or ends; remembers what to note of those that could not do
    so themselves.
    """

    def __init__(self, trials: Trials, console: Console) -> None:
        self._trials, self._console = trials, console
        self._over = 0
        self.known: dict[str, tuple[Settings, tuple[str, str]]] = {}

    def __call__(self, event: str, drawn: Settings, error: str | None) -> None:
        name = self._trials.name(drawn)
        line, verdict = f"{name}: started", ("stopped", STOPPED)
        if event != "started":
            self._over += 1
            state = read_state(self._trials.root / name)
            if event == "failed":
                reason = state.reason or error or "no reason known"
                line, verdict = f"{name}: failed: {reason}", ("failed", reason)
            else:
                how = "finished" if state.finished else "stopped early"
                line, verdict = f"{name}: {how}", ("stopped", tuning.StoppedEarly.name)
            line += f" ({self._over} of {self._trials.space.trials})"
        self.known[name] = (drawn, verdict)
        say(self._console, line)
