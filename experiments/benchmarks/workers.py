"""Processes that take turns: each holds its models, works when it is told to, and waits else."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.__main__ import QUIET
from experiments.benchmarks.cost import Cost
from experiments.files import to_json
from rl_unlearn.errors import TrainingError, UserError

_ROOT = Path(__file__).parents[2]
Task = Callable[..., Cost]


class Worker:
    """A process that serves tasks. What it prints goes to a log."""

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, packages: Sequence[Path] = ()
    ):
        """``packages``: folders of packages that this process has beside ours."""
        self._name, self._log = module.rpartition(".")[2], log
        places = [str(_ROOT), *map(str, packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {
            **QUIET, **os.environ,
            "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with log.open("w") as file:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-W", "ignore", "-m", module, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env=environ,
            )  # fmt: skip

    def __call__(self, task: str, **arguments: Any) -> Cost:
        """Has a task done; raises TrainingError, which names the log, where it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(to_json({"task": task, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            answer = ""
        else:
            answer = self._process.stdout.readline()
        told = json.loads(answer) if answer else {"error": "it ended"}
        if "error" in told:
            raise TrainingError(f"{self._name}: {task}: {told['error']}: see {self._log}")
        return Cost(**told)

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(tasks: Mapping[str, Task]) -> None:
    """Does what the lines of stdin ask for until they end; stdout has nothing but the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = tasks[asked.pop("task")](**asked).row()
        except Exception as error:  # the one who asked decides what follows
            traceback.print_exc()
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            answer = {"error": f"{kind}{error}".splitlines()[0]}
        answers.write(to_json(answer) + "\n")
        answers.flush()
