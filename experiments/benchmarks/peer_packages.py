"""The peers' packages, in a folder of their own: nothing of the present environment changes.

They are found behind ours, so that torch, diffusers, transformers and peft are the same for all.
"""

import importlib.util
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.files import make_folder
from rl_unlearn.errors import MachineError

TRL = "trl==0.23.1"
"""The last one with a trainer of DDPO; 0.24.0 has none."""
_NEEDED = ("pandas",)
"""What it imports beside what we need ourselves."""
_TESTED = Path(__file__).parents[2] / "constraints.txt"


def installed(folder: Path) -> Path:
    """Returns the folder of TRL's packages, which is filled if it is not there yet.

    Raises MachineError if they cannot be had.
    """
    place = folder.absolute() / TRL.replace("==", "-")
    if place.exists():
        return place
    make_folder(folder, "choose another place with --peers-folder")
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    tested = ["--constraint", str(_TESTED)] if _TESTED.exists() else []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary) / "whole"
        # Without what it asks for: that would be a second torch.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(whole), *tested, TRL, *absent]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise MachineError(f"{TRL} cannot be installed: {last}; try {shlex.join(command)}")
        whole.rename(place)
    return place
