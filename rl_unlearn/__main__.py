"""`python -m rl_unlearn` is `rl-unlearn`, in a checkout and from a wheel."""

import sys

from rl_unlearn import beside


def main() -> int:
    """Runs one command and returns its exit code."""
    code: int = beside("experiments.__main__").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
