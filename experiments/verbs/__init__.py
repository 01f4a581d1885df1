"""One module for each verb: `HELP`, `add_arguments(parser)`, and `run(args, console)` returning
what `--json` prints.

Heavy imports stay inside `run`, so that `--help` and mistakes answer at once.
"""
