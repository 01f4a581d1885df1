"""`report`: one page about one run, several side by side, or a sweep."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.console import say
from experiments.files import make_folder
from rl_unlearn.errors import ConfigError

HELP = "write one HTML file about one or more runs, or about a sweep"
MAX_RUNS = 24


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what `report` takes."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder; with several the page compares them; or the folder of one sweep",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where to write (default: report.html in the run or sweep, or beside the runs)",
    )


def run(args: Namespace, console: Console) -> dict[str, Any]:
    """Writes the page."""
    folders = [Path(name) for name in dict.fromkeys(args.runs)]
    if len(folders) > MAX_RUNS:
        raise ConfigError(f"{len(folders)} runs: one page holds {MAX_RUNS}; name fewer")
    here = folders[0] if len(folders) == 1 else folders[0].resolve().parent
    out = Path(args.out) if args.out else here / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {args.out}: must end in .html")
    sweeps = [folder for folder in folders if (folder / "space.yaml").is_file()]
    if sweeps and len(folders) > 1:
        raise ConfigError(f"{sweeps[0]} is a sweep, which has a page of its own: name it alone")
    if args.out:
        make_folder(out.parent, "choose another --out")
    if sweeps:
        from experiments.sweep import page
        from experiments.sweep.folder import SweepFolder

        page.write_page(SweepFolder(sweeps[0]), out)
    else:
        from experiments.report.report import write_page

        write_page(folders, out)
    say(console, f"report: {out}")
    return {"report": str(out), "runs": [str(folder) for folder in folders]}
