"""Many runs as trials of one Ray Tune experiment: who draws the settings, who stops early, what
survives a crash.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster import environment
from cluster.placement import Place
from rl_unlearn.errors import DataError

Settings = dict[str, Any]
"""What Tune drew for a trial, by the names in `Plan.draws`."""
Report = Callable[[dict[str, Any]], None]
"""Takes one row of figures to Tune; raises StoppedEarly where the trial shall end."""
Trial = Callable[[Settings, Report], None]
"""Carries one trial out, in a process of its own; an exception is that trial's failure alone."""
Watch = Callable[[str, Settings, str | None], None]
"""Told on the driver: `started`, `finished` or `failed`, the trial's settings, and why it
failed."""

EXPERIMENT = ".tune"
_VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # prints even when told to be quiet
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials find relative paths where the driver does
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver's own turns SIGINT into an orderly end
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # only the last report has the judges' figures
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders hold it all
}


class StoppedEarly(KeyboardInterrupt):
    """The scheduler ended this trial; a KeyboardInterrupt, so that event loops let it through."""

    name = "stopped early: other trials had a better score after as many rounds"


@dataclass(frozen=True)
class Draw:
    """Where one setting's values come from: a function of `ray.tune` and its arguments."""

    kind: Literal["grid_search", "choice", "uniform", "loguniform", "randint"]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """An experiment of trials."""

    draws: Mapping[str, Draw]
    folder: Path
    """Where Tune keeps its state, in `.tune`; a path that all machines of the cluster reach."""
    seed: int
    """Seed of the searcher."""
    trials: int
    """How many there are, those that are done among them."""
    samples: int = 1
    """Times that the grid is gone through with newly drawn values, or trials where there is no
    grid."""
    objectives: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)
    """Reported figures that Optuna improves on; without any, values are drawn blindly."""
    grace: int | None = None
    """Rounds that every trial may run before ASHA stops those of a low `score`; None: all run to
    the end."""
    rounds: int = 1
    """Rounds of the longest trial."""
    concurrent: int | None = None
    """Trials at once, at most; None: as many as have room."""


@environment.setting(_VARIABLES)
def search(
    plan: Plan,
    trial: Trial,
    needs: Callable[[Settings], list[Place]],
    name: Callable[[Settings], str],
    watch: Watch,
) -> None:
    """Runs what is not done yet of the plan on the connected Ray; ``watch`` hears of each trial.

    A plan whose folder holds the state of a killed experiment goes on from it: trials that ended
    well are not run again, the others are. ``needs`` says what a trial reserves: first itself, then
    the actors it will start. Raises DataError if trials are left out: Tune goes on with what it can
    read of a state, and says nothing of the rest.
    """
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def run_trial(config: Settings) -> None:
        try:
            trial(config, _report)
        except StoppedEarly as stop:
            raise SystemExit(0) from stop  # what Tune itself would have raised

    def group(config: Settings) -> Any:
        rooms = needs(config)
        labels = [place.labels for place in rooms]
        return tune.PlacementGroupFactory(
            [place.resources for place in rooms], bundle_label_selector=labels
        )

    placed = tune.with_resources(run_trial, group)
    space = {key: getattr(tune, draw.kind)(*draw.arguments) for key, draw in plan.draws.items()}
    state = plan.folder / EXPERIMENT
    # A sweep killed in its first seconds has left no state: it begins anew, and finished run
    # folders still count.
    if tune.Tuner.can_restore(str(state)) and any(state.glob("experiment_state-*.json")):
        tuner = tune.Tuner.restore(
            str(state), placed, resume_unfinished=True, restart_errored=True, param_space=space
        )
        tuner._local_tuner.get_run_config().callbacks = [
            _watcher(watch)
        ]  # the stored one came back idle
    else:
        run_config = tune.RunConfig(
            name=EXPERIMENT, storage_path=str(plan.folder), callbacks=[_watcher(watch)], verbose=0
        )
        tuner = tune.Tuner(
            placed, param_space=space, tune_config=_tune_config(plan, name), run_config=run_config
        )
    carried_out = len(tuner.fit())
    if carried_out < plan.trials:
        raise DataError(
            f"Ray Tune's record of the sweep, {state}, is damaged: {carried_out} of {plan.trials} "
            "trials were carried out; delete it and --resume, which repeats no finished one"
        )


def _report(row: dict[str, Any]) -> None:
    from ray import tune

    try:
        tune.report(row)
    except SystemExit as stop:
        raise StoppedEarly from stop


def _tune_config(plan: Plan, name: Callable[[Settings], str]) -> Any:
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search import BasicVariantGenerator

    options: dict[str, Any] = {}
    if plan.objectives:
        from ray.tune.search.optuna import OptunaSearch

        # As lists even if there is one: Optuna then looks at the last report alone.
        metrics, modes = list(plan.objectives), list(plan.objectives.values())
        options["search_alg"] = OptunaSearch(metric=metrics, mode=modes, seed=plan.seed)
        options["max_concurrent_trials"] = plan.concurrent
    else:
        # Drawn values stay the same over the grid, so that a setting's seeds are seeds of one
        # setting.
        options["search_alg"] = BasicVariantGenerator(
            max_concurrent=plan.concurrent or 0, constant_grid_search=True, random_state=plan.seed
        )
    if plan.grace is not None:
        options["scheduler"] = AsyncHyperBandScheduler(
            time_attr="round", metric="score", mode="max", grace_period=plan.grace,
            reduction_factor=2,
            max_t=max(plan.rounds, plan.grace + 1), stop_last_trials=False,
        )  # fmt: skip
    return tune.TuneConfig(
        num_samples=plan.samples,
        trial_name_creator=lambda trial: name(trial.config),
        trial_dirname_creator=lambda trial: trial.trial_id,
        **options,
    )


def _watcher(watch: Watch) -> Any:
    from ray import tune

    class Watcher(tune.Callback):  # type: ignore[misc]  # Ray has no types
        """A callback that tells `watch` what became of the trials.

        A stored copy is idle: the screen belongs to this process.
        """

        def __reduce__(self) -> Any:
            return tune.Callback, ()

        def on_trial_start(self, **info: Any) -> None:
            watch("started", dict(info["trial"].config), None)

        def on_trial_complete(self, **info: Any) -> None:
            watch("finished", dict(info["trial"].config), None)

        def on_trial_error(self, **info: Any) -> None:
            trial = info["trial"]
            watch("failed", dict(trial.config), _cause(trial))

    return Watcher()


def _cause(trial: Any) -> str | None:
    """Returns the last line of the error that Tune has just written on this machine.

    Its copy in the storage comes later.
    """
    file = trial.error_file
    text = (
        Path(file).read_text(encoding="utf-8", errors="replace")
        if file and Path(file).is_file()
        else ""
    )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
