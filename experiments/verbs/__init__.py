"""The verbs, a module each: `HELP`, `add_arguments(parser)`, `run(args, console)`.

`run` returns what `--json` prints. Heavy imports stay inside it, so that `--help` and mistakes
answer at once.
"""
