"""The reference of the command line, from its parser."""

import argparse
from argparse import Action, ArgumentParser

from experiments.__main__ import EXIT_CODES, make_parser
from experiments.site.configuration import cell

HEAD = """# Command line

`rl-unlearn VERB` and `python -m experiments VERB` are the same command. `KEY=VALUE` may stand
anywhere on the line. Errors are one line on stderr.
"""


def page() -> str:
    """Returns the page."""
    (table,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parts = [HEAD, f"{EXIT_CODES[0].upper()}{EXIT_CODES[1:]}.\n"]
    parts += [_verb(name, parser) for name, parser in table.choices.items()]
    return "\n".join(parts)


def _verb(name: str, parser: ArgumentParser) -> str:
    rows = [
        f"| {_names(action)} | {cell(_meaning(action))} |"
        for action in parser._actions
        if action.dest != "help"
    ]
    table = "\n".join(["| argument | meaning |", "|---|---|", *rows])
    return f"## {name}\n\n{_sentence(parser.description or '')}\n\n{table}\n"


def _names(action: Action) -> str:
    """Returns how an argument is written."""
    value = action.metavar or (None if action.option_strings else action.dest)
    flag = ", ".join(action.option_strings)
    if action.choices is not None and not action.metavar:
        value = "\\|".join(map(str, action.choices))
    return f"`{' '.join(str(part) for part in (flag, value) if part)}`"


def _meaning(action: Action) -> str:
    again = "; may be repeated" if isinstance(action, argparse._AppendAction) else ""
    needed = "; required" if action.option_strings and action.required else ""
    help = action.help or ""
    return help + (again if "repeated" not in help else "") + needed


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
