"""Resuming a run: which folder can be, what may differ, and records without what is done again."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from experiments import settings
from experiments.files import to_json
from experiments.runs import run_state
from experiments.runs.ledger import LEDGER, recorded, set_ahead
from experiments.runs.rows import EventRow, read_rows, write_rows
from experiments.runs.run_folder import digest
from experiments.runs.run_state import read_state
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.models import foundation

MAY_CHANGE = (
    "name", "output", "mirror", "tensorboard", "trackers", "cluster", "evaluation", "attack",
    "erase",
    "rollout.actors",
    "rollout.actors_min", "loop.rounds", "loop.timeout", "loop.heartbeat", "loop.restarts",
    "loop.checkpoint_every",
    "loop.checkpoints",
)  # fmt: skip
"""Keys that change how long or where a run goes. With more rounds the step size is annealed later,
too."""
BY_CONTENT = {
    "model.path": foundation.MODEL, "model.revision": foundation.MODEL,
    "model.variant": foundation.MODEL, "model.config": foundation.MODEL,
    "model.adapters": foundation.MODEL,
    "prompts.target_file": f"{foundation.LISTS} target_file",
    "prompts.retain_file": f"{foundation.LISTS} retain_file",
    "reward.clip": f"{foundation.CLIPS} reward", "selection.clip": f"{foundation.CLIPS} selection",
}  # fmt: skip
"""Keys that may name files, and the record of these (`foundation`): where there is one, it is
compared, and not where the files lie. What is only a name, as that of a CLIP to be fetched, is
compared as such."""
_OF_ROLLOUTS = ("selection", "warning")
"""Events whose round is one of rollouts."""


def is_run(folder: Path) -> bool:
    """Returns whether a run was started in this folder."""
    return (folder / "config.yaml").is_file() and (folder / run_state.NAME).is_file()


def identity(config: Config, stands_on: Mapping[str, str]) -> str:
    """Returns the SHA-256 of all that may not change when a run is resumed.

    It is what its checkpoints belong to. What files hold counts (``stands_on``, see `foundation`),
    not where they lie.
    """
    settled = {key: settings.value(config, key) for key in _compared(stands_on)}
    return hashlib.sha256(to_json([settled, foundation.digest(stands_on)]).encode()).hexdigest()


def _compared(stands_on: Mapping[str, str]) -> list[str]:
    """Returns the keys that are compared as they are written."""
    return [
        key
        for key in _fixed()
        if not any(name.startswith(BY_CONTENT.get(key, "\0")) for name in stands_on)
    ]


def _fixed() -> list[str]:
    return [
        key
        for key, field in settings.fields().items()
        if not settings.is_section(field)
        and not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)
    ]


def is_finished(folder: Path, config: Config) -> bool:
    """Returns whether the run ended as it should, with at least as many rounds as are asked for."""
    return (
        read_state(folder).finished
        and settings.recorded(folder / "config.yaml").loop.rounds >= config.loop.rounds
    )


def as_begun(folder: Path, config: Config) -> Config:
    """Returns the configuration with the hub's commit that the run began with.

    That is if it asks for what was asked for then: a branch may have moved since.
    """
    before, model = settings.recorded(folder / "config.yaml").model, config.model
    if (model.path, model.revision) != (before.path, read_state(folder).revision_asked):
        return config
    return config.model_copy(
        update={"model": model.model_copy(update={"revision": before.revision})}
    )


def check(folder: Path, config: Config) -> None:
    """Refuses a configuration that would make another run of it.

    Raises DataError for a folder that holds no run, a changed `config.yaml` or damaged records,
    ConfigError naming the keys that differ.
    """
    if not is_run(folder):
        raise DataError(
            f"{folder} holds no run to resume: give a run folder, or start one with train"
        )
    if (eraser := read_state(folder).eraser) is not None:
        raise ConfigError(
            f"{folder} is of a supervised eraser ({eraser}), which leaves nothing to go on with: "
            "erase again with --overwrite"
        )
    known = read_state(folder).configs
    before = settings.recorded(folder / "config.yaml")
    if known and digest((folder / "config.yaml").read_text(encoding="utf-8")) not in known:
        raise DataError(
            f"{folder / 'config.yaml'} is not as the run left it: put it back; what may change "
            "is given as KEY=VALUE"
        )
    read_rows(folder / "metrics.jsonl", EventRow)
    recorded(folder)
    stands_on = read_state(folder).stands_on
    if stands_on:
        foundation.check(stands_on, foundation.of_run(config), str(folder))
    different = [
        key
        for key in _compared(stands_on)
        if settings.value(before, key) != settings.value(config, key)
    ]
    if different:
        changes = ", ".join(
            f"{key} ({settings.value(before, key)} before, {settings.value(config, key)} now)"
            for key in different[:5]
        )
        raise ConfigError(
            f"{folder} was run with another configuration: {changes}; start another run, or leave "
            "them"
        )


def check_longer(folder: Path) -> None:
    """Refuses a finished run that left no checkpoint: it would begin anew, over what it had.

    Raises ConfigError.
    """
    if read_state(folder).finished and not any(folder.glob("checkpoints/round-*")):
        raise ConfigError(
            f"{folder} is finished and made no checkpoint (loop.checkpoint_every), so it cannot be "
            "made longer; start another run with more rounds"
        )


def trim(folder: Path, round: int | None, newest_round: int = 0) -> None:
    """Cuts metrics and ledger to the checkpoint of ``round``; None: to no checkpoint.

    What is cut from the ledger is kept aside. ``newest_round``: up to which the checkpoint knows
    the rollouts, which may be ahead of the training.
    """
    reached = (-1, -1) if round is None else (round, newest_round)
    set_ahead(folder, reached[0])
    for name in ("metrics.jsonl", LEDGER):
        trim_rows(folder / name, *reached)


def trim_rows(path: Path, round: int, newest_round: int) -> None:
    """Removes the rows of later rounds and of the final validation, and a line that a crash cut.

    These rows will be said again. That there was a restart stays on record.
    """
    kept = []
    for row in read_rows(path):
        reached = newest_round if row.get("event") in _OF_ROLLOUTS else round
        if (row.get("round", 0) <= reached and not row.get("final")) or row.get(
            "event"
        ) == "restart":
            kept.append(row)
    write_rows(path, kept)
