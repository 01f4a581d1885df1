"""Where a run comes from: the commit of this checkout, and the device that computes."""

import os
import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PROCESSORS = Path("/proc/cpuinfo")


def commit() -> str | None:
    """Returns the commit of the checkout that this code is in, with `-dirty` where files of it were
    changed; None for code that was installed.
    """
    top, head = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if top is None or head is None or Path(top).resolve() != _ROOT:
        return None
    return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head


def device() -> str:
    """Returns the GPUs of this machine, or its processor and the cores that may be used."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        kinds = {name: names.count(name) for name in names}
        return ", ".join(f"{count} x {name}" for name, count in kinds.items())
    return f"{cores()} cores of {processor()}"


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Returns the model of the processor."""
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _git(*words: str) -> str | None:
    asked = ["git", "-C", str(_ROOT), *words]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
