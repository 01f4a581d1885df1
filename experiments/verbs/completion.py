"""`completion`: a script by which a shell completes verbs, options, shipped names and keys."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from experiments import completion, completion_scripts

HELP = "print a script by which bash, zsh or fish complete the command line"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `completion` takes."""
    parser.add_argument(
        "shell",
        choices=completion_scripts.SHELLS,
        help="in ~/.bashrc: source <(rl-unlearn completion bash)",
    )


def run(args: Namespace, _console: Console) -> dict[str, Any]:
    """Prints the script to stdout; with --json the caller does."""
    verbs = completion.verbs(args.parser)
    script = completion_scripts.script(args.shell, verbs, completion.values())
    if not args.json:
        sys.stdout.write(script)
    return {"shell": args.shell, "script": script}
