"""The head of a benchmark's file: the command, the machine, and the versions of what was
measured.
"""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.runs.run_folder import now, package_versions

_PROCESSORS = Path("/proc/cpuinfo")


def head(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """Returns it for a module of this folder and the arguments that it was given."""
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "command": shlex.join(["python", "-m", f"experiments.benchmarks.{name}", *argv]),
        "begun": now(),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "load": os.getloadavg()[0],
        "card": card.name if card else None,
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def _processor() -> str:
    """Returns the model of the processor."""
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    asked = ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
