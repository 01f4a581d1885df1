"""What a sweep leaves beside its run folders: table, pictures, report, the front's adapters; all
made from them alone.
"""

from pathlib import Path
from typing import Any

from experiments.files import write_bytes, write_json, write_text
from experiments.sweep import front, page, pictures, table
from experiments.sweep.folder import SweepFolder
from rl_unlearn.errors import DataError


def summarize(root: Path) -> dict[str, Any]:
    """Writes what a sweep leaves and returns what the command prints.

    DataError if no trial has left a run folder.
    """
    trials = table.read_trials(root)
    if not trials:
        raise DataError(f"{root} holds no trial yet; run the sweep, or continue it with --resume")
    rows = table.rows(trials)
    members = front.front(rows)
    write_text(root / "table.md", table.markdown(rows, members, root.name))
    write_text(root / "table.csv", table.comma_separated(rows, members))
    write_json(
        root / "results.json", {"sweep": root.name, "settings": table.results(rows, members)}
    )
    write_bytes(root / "front.png", pictures.draw_front(rows, members, root.name))
    write_bytes(root / "curves.png", pictures.draw_curves(rows, root.name))
    exported = front.export(members, root)
    report = page.write_page(SweepFolder(root))
    states = [trial.state for trial in trials]
    return {
        "sweep": str(root),
        "trials": len(trials),
        "finished": sum(trial.finished for trial in trials),
        "failed": {
            t.path.name: table.one_line(t.reason or "no reason known")
            for t in trials
            if t.state == "failed"
        },
        "stopped": states.count("stopped"),
        "front": [str(path) for path in exported],
        "table": str(root / "table.md"),
        "report": str(report),
        "settings": table.results(rows, members),
    }
