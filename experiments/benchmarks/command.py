"""What a benchmark's command does around its work: libraries are kept quiet and away from the hub,
and an error of the user's is one line.
"""

import argparse
import os
import sys
from collections.abc import Callable

from experiments.__main__ import QUIET
from rl_unlearn.errors import UserError


def parser(about: str | None, out: str) -> argparse.ArgumentParser:
    """Returns a parser that takes the file to write (default: ``out`` below the benchmarks' folder)
    and settings on top of the configuration.
    """
    plain = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=about, formatter_class=plain)
    made.add_argument("--out", default=f"outputs/benchmarks/{out}", metavar="FILE")
    made.add_argument(
        "overrides", nargs="*", metavar="override", help="KEY=VALUE on top of the configuration"
    )
    return made


def run(work: Callable[[], int]) -> int:
    """Does the work, which must import the libraries itself; returns the exit code."""
    for name, value in {**QUIET, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
