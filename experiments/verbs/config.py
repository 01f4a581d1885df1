"""`config`: the configuration as it is resolved, its schema, and files to start from."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import presets, settings
from experiments.console import say
from experiments.verbs import common
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError

HELP = "show the resolved configuration or its JSON schema, list shipped ones, or start a file"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `config` takes."""
    parser.add_argument(
        "what",
        choices=("show", "schema", "list", "init"),
        help="resolved YAML; JSON schema with descriptions; what is shipped; or a commented file "
        f"to start from, a copy of the shipped NAME (default {presets.DEFAULT})",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="init: where to write (default NAME.yaml); never replaces"
    )
    common.add_config(parser)


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Prints to stdout; with --json the caller does."""
    if args.what == "init":
        return _start(args, console)
    if args.out:
        raise ConfigError(f"--out {args.out}: only `config init` writes a file; use > for the rest")
    if args.what == "list":
        shipped = {name: presets.title(name) for name in presets.names()}
        if not args.json:
            wide = max(map(len, shipped))
            sys.stdout.writelines(f"{name:{wide}}  {title}\n" for name, title in shipped.items())
        return shipped
    if args.what == "schema":
        schema = Config.model_json_schema()
        if not args.json:
            sys.stdout.write(json.dumps(schema, indent=2) + "\n")
        return schema
    config = settings.load(args.config, args.overrides)
    if not args.json:
        sys.stdout.write(settings.dump(config))
    return config.model_dump(mode="json")


def _start(args: Namespace, console: Console) -> dict[str, Any]:
    """Writes a copy of a shipped configuration; no file makes way for it."""
    name, *others = args.overrides or [presets.DEFAULT]
    if args.config or others or "=" in name:
        raise ConfigError(
            "config init takes a shipped NAME and --out alone: it copies a file for you to edit"
        )
    text = presets.shipped(name).read_text(encoding="utf-8")
    out = Path(args.out or f"{name}.yaml")
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{out} exists already; choose another --out, or remove it") from error
    except OSError as error:
        raise MachineError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    bare = out.parent == Path() and not out.suffix
    say(console, f"{out}: edit it, then rl-unlearn train --config {'./' if bare else ''}{out}")
    return {"file": str(out), "from": name}
