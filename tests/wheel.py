"""The wheel of this checkout, built as a release would be."""

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def built(folder: Path) -> Path:
    """Returns the wheel, made into `folder`."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
