"""The ledger of a run: one row for each update, on disk before the checkpoint that holds it; no
gap, no repetition.

A row: update, round, version in and out, which rounds it saw and who drew them, number and digest
of the trajectories, digest of the weights.
"""

from pathlib import Path
from typing import Any

from experiments.runs.rows import UpdateRow, read_rows, write_rows
from rl_unlearn.errors import DataError

LEDGER = "ledger.jsonl"
AHEAD = "ledger-ahead.jsonl"


def set_ahead(folder: Path, round: int) -> None:
    """Keeps rows of later rounds, which are about to be cut from the ledger, until their updates
    are repeated.
    """
    later = [row for row in read_rows(folder / LEDGER, UpdateRow) if row.get("round", 0) > round]
    if later:
        write_rows(folder / AHEAD, [*read_rows(folder / AHEAD, UpdateRow), *later])


def recorded(folder: Path) -> list[dict[str, Any]]:
    """All rows that a run must repeat: of what is ahead of its ledger, then of its ledger."""
    return read_rows(folder / AHEAD, UpdateRow) + read_rows(folder / LEDGER, UpdateRow)


def weights(folder: Path) -> dict[int, str]:
    """Digest of the weights that each update on record made."""
    return {row["update"]: row.get("weights", "") for row in recorded(folder)}


def verify(path: Path, updates: int, round: int | None = None) -> None:
    """Raises DataError unless the ledger holds exactly the updates from 1 to `updates`, in this
    order.

    With `round` rows of later rounds are not looked at.
    """
    rows = [
        row for row in read_rows(path, UpdateRow) if round is None or row.get("round", 0) <= round
    ]
    made = [(row["update"], row["version_in"], row["version_out"]) for row in rows]
    for number in range(1, max(updates, len(made)) + 1):
        if made[number - 1 : number] != [(number, number - 1, number)] or number > updates:
            raise DataError(
                f"{path} does not hold the {updates:,} updates of this run (row {number:,} is "
                "wrong): it was changed by hand or lost rows; start the run anew with --overwrite"
            )
