"""What a benchmark's command does around its work: libraries are kept quiet and away from the hub,
and an error of the user's is one line.
"""

import os
import sys
from collections.abc import Callable

from experiments.__main__ import QUIET
from rl_unlearn.errors import UserError


def run(work: Callable[[], int]) -> int:
    """Does the work, which must import the libraries itself; returns the exit code."""
    for name, value in {**QUIET, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
