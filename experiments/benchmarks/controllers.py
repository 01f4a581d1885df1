"""A whole run in one process, and what its controllers did: movement, step size, multiplier."""

import time
from collections.abc import Callable
from typing import Any

import torch

from cluster import program
from experiments.benchmarks import half_on_cpu
from experiments.benchmarks.passes import peak, release
from experiments.plan.make import make
from learner.events import Event, Round, WarmUp
from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError, UserError

_PLAIN = (
    "kl", "kl_floor", "lr", "kl_weight", "ess", "clip_fraction", "grad_norm", "skipped_steps",
    "seconds",
)  # fmt: skip
COLUMNS = ("update", "step_kl_raw", "step_kl", "kl", "kl_floor", "lr", "kl_weight")
"""What the lines on the screen show."""


def run(config: Config, until: float, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Trains with this configuration; ``tell`` hears what is known so far after each update.

    Ends after the update that passes ``until``, on the monotonic clock. ``ended`` says how, and why
    a run was refused or failed.
    """
    release()
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    known: dict[str, Any] = {"ended": "cut off", "updates": rows}

    def on_event(event: Event) -> None:
        if isinstance(event, WarmUp):
            known["warm_up_seconds"] = time.monotonic() - start
        if not isinstance(event, Round):
            return
        rows.append(_of_update(config, event.row()))
        tell(known)
        if time.monotonic() > until:
            raise TrainingError("the time was over")

    try:
        with half_on_cpu.quick():
            result = program.train(config, on_event)
        known |= {"ended": "finished", "images": result.images}
    except UserError as error:
        known["ended"] = str(error)
    held = make(config, evaluated=False)["memory"]["cards"][0]["bytes"]
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    return known | {"bytes": peak(), "reserved_bytes": reserved, "planned_bytes": held}


def _of_update(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """``step_kl`` is what the step size follows, above rounding; ``step_kl_raw`` has it in."""
    # As the learner does it: an action's way is counted to the last minibatch, its K0 by that way.
    parts = config.learner.minibatches
    ways = [(count, lag + 1 - 1 / parts) for lag, count in enumerate(row["policy_lag_counts"])]
    gone = [(count, way) for count, way in ways if way > 0]
    share = sum(count / way**2 for count, way in gone) / max(1, sum(count for count, _ in gone))
    raw = row["step_kl"] + row["kl_floor"] * share
    figures = {"update": row["policy_version"], "step_kl": row["step_kl"], "step_kl_raw": raw}
    return figures | {key: row[key] for key in _PLAIN}
