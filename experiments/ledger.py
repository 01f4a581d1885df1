"""The ledger of a run: one row for each update, on disk before the checkpoint that holds it; no gap, no repetition.

A row: update, round, version in and out, which rounds it saw and who drew them, number and digest of the trajectories,
digest of the weights.
"""

import json
from pathlib import Path
from typing import Any

from rl_unlearn.errors import DataError

LEDGER = "ledger.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a ledger, in their order; none if there is no file. A line cut by a crash is no row."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def verify(path: Path, updates: int) -> None:
    """Raises DataError unless the ledger holds exactly the updates from 1 to `updates`, in this order."""
    rows = read(path)
    found = [(row["update"], row["version_in"], row["version_out"]) for row in rows]
    for number in range(1, max(updates, len(found)) + 1):
        if found[number - 1 : number] != [(number, number - 1, number)] or number > updates:
            raise DataError(
                f"{path} does not hold the {updates:,} updates of this run (row {number:,} is wrong): "
                "it was changed by hand or lost rows; start the run anew with --overwrite"
            )
