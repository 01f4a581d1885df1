"""A command as a job on a cluster: what is sent, and what its end means here."""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import rl_unlearn
from cluster import address
from experiments import COMMAND, settings, signals
from experiments.console import say
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, TrainingError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.places import shown

CHECKOUT = "experiments"
"""Name of this package in a checkout; an installed one has it below `rl_unlearn`."""
EXCLUDES = [
    "/.git",
    "/.venv",
    "/outputs",
    "/canvas-work",
    "/build",
    "/dist",
    "/.*_cache",
    "__pycache__",
    "*.egg-info",
    ".env",
    ".env.*",
]
"""What of a checkout stays at home, in the syntax of .gitignore, beside what .gitignore itself
names."""


def submit(
    folder: Path, args: Namespace, console: Console, name: str | None = None, again: str = ""
) -> dict[str, Any]:
    """Submits the command to the head at `args.submit`, follows its log, and ends as it ends.

    `folder`: where on the cluster the job works; one job at a time does. `name`: the job's, if it
    is not the folder's. `again`: how to go on with a job that was stopped. SIGINT or SIGTERM stops
    the job. Raises TrainingError with the job's own cause if it failed, `Stopped` if it was stopped
    by somebody else.
    """
    sent = _code()
    address.check_head(args.submit)
    from cluster import submission

    client = submission.connect(args.submit)
    if not submission.asks_for_token(client):
        say(
            console,
            f"warning: {args.submit} asks for no token: whoever reaches it can run code on the "
            "cluster",
        )
    job = submission.submit(
        client, folder, name or folder.name, command(args.argv), sent, _environment(), _to_stderr
    )
    say(console, f"job {job.id} is submitted to {args.submit}; Ctrl-C stops it")
    try:
        ended = job.follow()
    except KeyboardInterrupt:
        say(console, f"stopping job {job.id}; a second signal leaves at once")
        job.stop()
        say(console, f"job {job.id}: {job.follow().status}")
        raise
    if ended.status == "STOPPED":
        say(console, f"job {job.id} was stopped{again}")
        raise signals.Stopped(signal.SIGTERM)
    if ended.status != "SUCCEEDED":
        code = "" if ended.exit_code is None else f" with exit code {ended.exit_code}"
        raise TrainingError(f"job {job.id} failed{code}: {cause(ended.lines)}")
    answer = outcome(ended.lines) if args.json else {}
    return answer | {"run": str(folder), "job": job.id, "head": args.submit, "status": ended.status}


def command(argv: Sequence[str]) -> list[str]:
    """Returns the same command without `--submit`."""
    words, kept = iter(argv), []
    for word in words:
        if word == "--submit":
            next(words, None)
        elif not word.startswith("--submit="):
            kept.append(word)
    return kept


def cause(lines: Sequence[str]) -> str:
    """Returns why a command of ours failed, by the last lines that it wrote."""
    errors = [line for line in lines if line.startswith("error: ")]
    return (
        errors[-1].removeprefix("error: ") if errors else (lines[-1] if lines else "it left no log")
    )


def outcome(lines: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON object that a command with `--json` ends with, or an empty one."""
    try:
        return parse_object(lines[-1], "the job's last line") if lines else {}
    except DataError:
        return {}


def check_output(config: Config) -> None:
    """Raises ConfigError unless a job finds its cluster and a folder that outlives it."""
    if config.cluster.address not in (None, "auto"):
        raise ConfigError(
            "--submit: a job finds its own cluster; leave --address and cluster.address out"
        )
    if not Path(config.output).is_absolute():
        named = "a relative folder goes with the job's working directory; "
        raise ConfigError(
            f"output={config.output}: {named}"
            + (
                "with a mirror name one on the head's own disk, too, such as output=/scratch/runs "
                f"mirror={shown(config.mirror)}"
                if config.mirror
                else "name one that outlives it, on storage that the whole cluster shares, such as "
                "output=/shared/outputs"
            )
        )


def check_shared(paths: Iterable[Path]) -> None:
    """Raises ConfigError for what a job is to read or write and that is not told absolutely."""
    for path in paths:
        if not path.is_absolute():
            raise ConfigError(
                f"{path}: with --submit it is looked up on the cluster; give its absolute path on "
                "storage that the whole cluster shares, such as /shared/outputs/frog-seed0"
            )


def _code() -> dict[str, Any]:
    """Returns the part of a job's environment that takes this code along: the checkout that the
    command is called in, or the package as it is installed here.
    """
    if COMMAND[-1] != CHECKOUT:
        return {"py_modules": [str(Path(rl_unlearn.__file__).parent)], "excludes": ["__pycache__"]}
    if not Path(CHECKOUT, "__main__.py").is_file():
        raise ConfigError("--submit sends the folder that it is called in: call it in the checkout")
    return {"working_dir": str(Path.cwd()), "excludes": EXCLUDES}


def _environment() -> dict[str, str]:
    """Returns the variables that are a layer of the configuration: the job shall see them, too."""
    return {name: value for name, value in os.environ.items() if name.startswith(settings.PREFIX)}


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
