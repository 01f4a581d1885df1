"""How TensorBoard, Weights & Biases and MLflow are told of a run; imported only when asked for.

Addresses and keys come from their own environment variables alone. Without these all write below
the output folder: TensorBoard and W&B offline into the run folder (`wandb sync` sends it later),
MLflow into a local database.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from experiments.files import write_text
from experiments.runs.run_folder import RunFolder
from rl_unlearn.config import Config

PROJECT = "rl-unlearn"
_PARAMS = 100  # in one call to MLflow
_LONGEST = 500


class Opened(Protocol):
    """A run at a tracker."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Takes the numbers of one event."""

    def close(self, state: str) -> None:
        """Ends the run: `finished`, `failed` or `stopped`."""


class _TensorBoard:
    """Event files in the run folder, made with the first numbers: a resumed run that ends before
    its training goes on stays as it is.
    """

    def __init__(self, folder: RunFolder, _: Config):
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def log(self, numbers: dict[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, state: str) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()


class _WandB:
    def __init__(self, folder: RunFolder, config: Config):
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or (
            "online" if os.environ.get("WANDB_API_KEY") else "offline"
        )
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_meta=True,
            x_disable_stats=True,
            init_timeout=30,
        )  # fmt: skip
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=config.run_name, mode=mode,
            dir=str(folder.path),
            id=_remembered(folder / "wandb" / "run-id", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            config=config.model_dump(mode="json"), settings=settings,
        )  # fmt: skip
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log({**numbers, "round": step})

    def close(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)


class _MLflow:
    def __init__(self, folder: RunFolder, config: Config):
        from mlflow.tracking import MlflowClient

        local = f"sqlite:///{Path(config.output).resolve() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or local)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self._run = _remembered(folder / "mlflow-run-id", lambda: self._start(name, config))
        self._client.update_run(self._run, status="RUNNING")

    def _start(self, name: str, config: Config) -> str:
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        run: str = self._client.create_run(number, run_name=config.run_name).info.run_id
        params = [
            Param(key, text[:_LONGEST])
            for key, text in _flat(config.model_dump(mode="json")).items()
        ]
        for first in range(0, len(params), _PARAMS):
            self._client.log_batch(run, params=params[first : first + _PARAMS])
        return run

    def log(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, metrics=[Metric(name, value, now, step) for name, value in numbers.items()]
        )

    def close(self, state: str) -> None:
        self._client.set_terminated(
            self._run, {"finished": "FINISHED", "stopped": "KILLED"}.get(state, "FAILED")
        )


OPENERS: dict[str, Callable[[RunFolder, Config], Opened]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _remembered(file: Path, make: Callable[[], str]) -> str:
    """The run's id at a tracker; a resumed run goes on with its own."""
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, made + "\n")
    return made


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
