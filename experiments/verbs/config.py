"""`config`: the configuration as it is resolved, or its schema."""

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from experiments import settings
from experiments.verbs import common
from rl_unlearn.config import Config

HELP = "show the resolved configuration or its JSON schema"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `config` takes."""
    parser.add_argument(
        "what", choices=("show", "schema"), help="resolved YAML, or JSON schema with descriptions"
    )
    common.add_config(parser)


def run(args: Namespace, _console: Console) -> dict[str, Any]:
    """Prints to stdout; with --json the caller does."""
    if args.what == "schema":
        schema = Config.model_json_schema()
        if not args.json:
            sys.stdout.write(json.dumps(schema, indent=2) + "\n")
        return schema
    config = settings.load(args.config, args.overrides)
    if not args.json:
        sys.stdout.write(settings.dump(config))
    return config.model_dump(mode="json")
