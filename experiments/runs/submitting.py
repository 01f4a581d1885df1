"""A command of this checkout as a job on a cluster: what is sent, and what its end means here."""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster import address
from experiments import settings, signals
from experiments.console import say
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, TrainingError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.places import shown


def submit(config: Config, args: Namespace, console: Console) -> dict[str, Any]:
    """Submits the command to the head at `args.submit`, follows its log, and ends as it ends.

    SIGINT or SIGTERM stops the job. Raises TrainingError with the job's own cause if it failed,
    `Stopped` if it was stopped by somebody else.
    """
    _check(config)
    address.check_head(args.submit)
    from cluster import submission

    run = Path(config.output) / config.run_name
    client = submission.connect(args.submit)
    if not submission.asks_for_token(client):
        say(
            console,
            f"warning: {args.submit} asks for no token: whoever reaches it can run code on the "
            "cluster",
        )
    job = submission.submit(client, run, command(args.argv), Path.cwd(), _environment(), _to_stderr)
    say(console, f"job {job.id} is submitted to {args.submit}; Ctrl-C stops it")
    try:
        ended = job.follow()
    except KeyboardInterrupt:
        say(console, f"stopping job {job.id}; a second signal leaves at once")
        job.stop()
        say(console, f"job {job.id}: {job.follow().status}")
        raise
    if ended.status == "STOPPED":
        say(console, f"job {job.id} was stopped; `--resume auto` goes on with it")
        raise signals.Stopped(signal.SIGTERM)
    if ended.status != "SUCCEEDED":
        code = "" if ended.exit_code is None else f" with exit code {ended.exit_code}"
        raise TrainingError(f"job {job.id} failed{code}: {cause(ended.lines)}")
    answer = outcome(ended.lines) if args.json else {}
    return answer | {"run": str(run), "job": job.id, "head": args.submit, "status": ended.status}


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


def _check(config: Config) -> None:
    if config.cluster.inline:
        raise ConfigError("--submit runs on a cluster, --inline without one: leave one of them out")
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
    if not Path("experiments/__main__.py").is_file():
        raise ConfigError("--submit sends the folder that it is called in: call it in the checkout")


def _environment() -> dict[str, str]:
    """Returns the variables that are a layer of the configuration: the job shall see them, too."""
    return {name: value for name, value in os.environ.items() if name.startswith(settings.PREFIX)}


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
