"""The report: one HTML file made from what one or more run folders hold, readable offline and
harmless.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.evaluation.headline import HEADLINE
from experiments.files import write_text
from experiments.report import run_view
from experiments.report.curves import critic_map, page_curves
from experiments.report.differences import differences
from experiments.report.page import render
from experiments.runs.own_files import inside, picture


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from its files."""
    return write_page([folder], folder / "report.html")


def write_page(folders: Sequence[Path], out: Path) -> Path:
    """Writes one page about the runs in `folders`; DataError if one of them is no run folder or
    damaged.
    """
    runs = _apart([run_view.read(folder, i) for i, folder in enumerate(folders, start=1)])
    write_text(out, render("report.html.j2", _content(runs)))
    return out


def _apart(runs: list[run_view.Run]) -> list[run_view.Run]:
    """Gives runs of the same name that of their parent folder, too."""
    names = Counter(run.name for run in runs)
    return [
        replace(
            run,
            title=f"{run.path.resolve().parent.name}/{run.name}"
            if names[run.name] > 1
            else run.name,
        )
        for run in runs
    ]


def _content(runs: Sequence[run_view.Run]) -> dict[str, Any]:
    concepts = list(dict.fromkeys(run.trait or run.config.concept for run in runs))
    configs = [run.config for run in runs]
    return {
        "title": "Forgetting " + ", ".join(f"“{concept}”" for concept in concepts[:4]),
        "runs": runs,
        "headline": HEADLINE,
        "others": run_view.others(runs),
        "curves": page_curves(runs),
        "maps": [(run, drawn) for run in runs if (drawn := critic_map(run))],
        "trade_offs": run_view.trade_offs(runs),
        "differences": differences(configs),
        "dumps": [settings.dump(config) for config in configs],
        "pictures": {
            run.number: _data_uri(inside(run.path, "samples.png")) for run in runs if not run.rows
        },
    }


def _data_uri(path: Path) -> str:
    shown = picture(path)
    return f"data:image/png;base64,{base64.b64encode(shown[0]).decode()}" if shown else ""
