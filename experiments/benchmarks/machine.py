"""The head of a benchmark's file: the command, the machine, and the versions of what was
measured.
"""

import os
import platform
import shlex
from collections.abc import Sequence
from typing import Any

import torch

from experiments.runs import origin
from experiments.runs.run_folder import now, package_versions


def head(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """Returns it for a module of this folder and the arguments that it was given."""
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "command": shlex.join(["python", "-m", f"experiments.benchmarks.{name}", *argv]),
        "begun": now(),
        "commit": origin.commit(),
        "cores": os.cpu_count(),
        "processor": origin.processor(),
        "load": os.getloadavg()[0],
        "card": card.name if card else None,
        "python": platform.python_version(),
        "packages": package_versions(),
    }
