"""What a run takes before it learns: the imports of each process, and the phases up to the first
round.

    python -m experiments.benchmarks.startup [--turns 3] [--out FILE]

Imports are of fresh processes that take turns: CPU-seconds (user and system), modules, and which of
the heavy packages came along that only some need. The phases are of one run of the canvas on a
private Ray, by this process's clock, beside the CPU-seconds of all its processes. A shared
machine's clock is noise: look at medians, CPU-seconds and counts.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.files import write_json

_ABOVE = (__package__ or "").removesuffix("experiments.benchmarks")
ROLES = {
    "driver": f"{_ABOVE}experiments.run",
    "rollout": f"{_ABOVE}actors.rollout",
    "critic": f"{_ABOVE}actors.critic",
    "learner": f"{_ABOVE}learner.learner",
    "replay": f"{_ABOVE}actors.replay",
}
HEAVY = ("scipy", "timm", "wandb", "torch._dynamo", "torchmetrics", "matplotlib", "ray")
_IMPORT = """
import json, resource, sys
import {module}
used = resource.getrusage(resource.RUSAGE_SELF)
loaded = [name for name in {heavy} if sys.modules.get(name)]
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules), loaded]))
"""
_RUN = f"""
import json, resource, time
start = time.monotonic()
import {__package__}.startup as startup
startup.phases(start)
"""


def _python(code: str) -> str:
    """Returns the last line that a fresh process prints."""
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout.splitlines()[-1]


def imported(module: str) -> tuple[float, int, list[str]]:
    """Returns CPU-seconds, number of modules and heavy packages of a process that imports it."""
    code = _IMPORT.format(module=module, heavy=HEAVY)
    seconds, modules, heavy = json.loads(_python(code))
    return seconds, modules, heavy


def phases(start: float) -> None:
    """Runs the canvas for two rounds and prints when each phase began, in seconds; called in a
    fresh process.
    """
    from cluster.program import train
    from experiments import settings
    from experiments.benchmarks.loop import CANVAS
    from learner.events import Event, Phase, Round

    config = settings.load([str(CANVAS)], ["loop.rounds=2", "selection.every=2"])
    began = {"imported": time.monotonic() - start}

    def on_event(event: Event) -> None:
        if isinstance(event, Phase):
            began[event.phase.partition(",")[0]] = time.monotonic() - start
        elif isinstance(event, Round):
            began[f"round {event.round}"] = time.monotonic() - start

    train(config, on_event)
    print(json.dumps(began))


def _run() -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = json.loads(_python(_RUN))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"began": began, "cpu_seconds": spent}


def main(turns: int) -> dict[str, Any]:
    """Returns medians, and every measurement behind them."""
    from experiments.benchmarks import machine  # has torch, which the phases' process is timed for

    head = machine.head("startup", sys.argv[1:])
    measured: dict[str, list[tuple[float, int, list[str]]]] = {role: [] for role in ROLES}
    for _ in range(turns):
        for role, module in ROLES.items():
            measured[role].append(imported(module))
    roles: dict[str, dict[str, Any]] = {
        role: {
            "cpu_seconds": statistics.median(seconds for seconds, _, _ in rows),
            "modules": rows[0][1],
            "heavy": rows[0][2],
        }
        for role, rows in measured.items()
    }
    return head | {
        "imports": roles,
        "imports_cpu_seconds": sum(row["cpu_seconds"] for row in roles.values()),
        "run": _run(),
        "measured": measured,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3, help="processes for each role")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    results = main(arguments.turns)
    if arguments.out is not None:
        write_json(arguments.out, results)
    print(json.dumps({key: value for key, value in results.items() if key != "measured"}))
