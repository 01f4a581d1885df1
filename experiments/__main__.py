"""The command line: `python -m experiments VERB`, installed as `rl-unlearn VERB`."""

import difflib
import os
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from rich.console import Console

from experiments import COMMAND, signals
from experiments.files import to_json
from experiments.verbs import (
    attack,
    completion,
    config,
    demo,
    doctor,
    erase,
    evaluate,
    export,
    fetch,
    generate,
    report,
    resume,
    sweep,
    train,
)
from rl_unlearn import __version__
from rl_unlearn.errors import ConfigError, UserError
from rl_unlearn.files.places import check_local

VERBS = {
    "demo": demo, "train": train, "resume": resume, "erase": erase, "generate": generate,
    "evaluate": evaluate, "attack": attack,
    "sweep": sweep, "report": report, "export": export, "fetch": fetch, "config": config,
    "doctor": doctor, "completion": completion,
}  # fmt: skip
EXIT_CODES = (
    "exit codes: 0 done, 2 usage or configuration, 3 machine, 4 training failed, 5 data invalid, "
    "130/143 stopped"
)
PATHS = {
    "run", "runs", "on", "start", "critic_from", "adapter", "adapters", "config", "space",
    "prompts", "out",
}  # fmt: skip
"""Arguments that name files or folders."""
QUIET = {
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


class Parser(ArgumentParser):
    """A parser of arguments whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError instead of printing the usage."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def make_parser() -> Parser:
    """Returns a parser of all verbs with their arguments."""
    parser = Parser(
        prog="rl-unlearn",
        description="Make a text-to-image diffusion model forget a concept.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"rl-unlearn {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=EXIT_CODES, allow_abbrev=False
        )
        module.add_arguments(verb)
        verb.add_argument(
            "--json",
            action="store_true",
            help="print one JSON object to stdout, all else to stderr",
        )
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Returns the arguments of one command; KEY=VALUE may stand anywhere."""
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise ConfigError(
            f"unknown verb '{verb}'; "
            + (f"did you mean '{near[0]}'?" if near else f"use {', '.join(VERBS)}")
        )
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "overrides" not in args:
            raise ConfigError(f"unknown argument '{word}'; see `rl-unlearn {args.verb} --help`")
        args.overrides = [*args.overrides, word]
    args.argv, args.parser = [*COMMAND, *argv], parser
    for name in PATHS & vars(args).keys():
        given = getattr(args, name)
        check_local(given if isinstance(given, list) else [given], "")
    return args


@contextmanager
def json_only_stdout(wanted: bool) -> Iterator[TextIO]:
    """Yields the real stdout; with `wanted`, whatever else is printed meanwhile goes to stderr."""
    if not wanted:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            yield stdout
        finally:
            sys.stdout.flush()
            os.dup2(stdout.fileno(), 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        make_parser().print_help()
        return 0
    debug = "--debug" in argv
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
    signals.install()
    with json_only_stdout("--json" in argv) as stdout:
        try:
            args = parse(argv)
            outcome = args_run(args)
            if args.json:
                stdout.write(to_json(outcome) + "\n")
            return int(outcome.get("exit_code", 0))
        except KeyboardInterrupt as stop:
            code, line = signals.cause(stop).exit_code, "stopped"
            trace = traceback.format_exc()
        except UserError as error:
            code, line, trace = (
                error.exit_code,
                f"error: {one_line(str(error))}",
                traceback.format_exc(),
            )
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except Exception as error:
            code, trace = 1, traceback.format_exc()
            line = (
                f"error: internal: {type(error).__name__}: {one_line(str(error))}; --debug shows "
                "where"
            )
        sys.stderr.write((trace if debug else "") + line + "\n")
        if "--json" in argv:
            stdout.write(to_json({"error": line.removeprefix("error: "), "exit_code": code}) + "\n")
        return code


def args_run(args: Namespace) -> dict[str, Any]:
    """Runs the verb, which tells people and programs alike on stderr; returns its outcome."""
    outcome: dict[str, Any] = VERBS[args.verb].run(args, Console(stderr=True))
    return outcome


def one_line(text: str) -> str:
    """Returns text of any origin as one printable line of bounded length."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:1000]


if __name__ == "__main__":
    sys.exit(main())
