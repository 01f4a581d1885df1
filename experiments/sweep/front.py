"""The best trade-offs of a sweep: settings that no other beats in both forgetting and keeping."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.sweep.table import Row, Trial
from rl_unlearn.errors import MachineError

FOLDER = "front"


def front(rows: Sequence[Row]) -> list[Row]:
    """Returns the Pareto front of mean UA and mean of IRA and CRA, by rising UA; equals are all on
    it.
    """
    judged = [row for row in rows if row.means]
    return sorted(
        (row for row in judged if not any(_beats(other, row) for other in judged)), key=_ua
    )


def export(members: Sequence[Row], root: Path) -> list[Path]:
    """Puts an adapter of each member into `front/`, in place of what was there; MachineError if it
    cannot.

    Of a setting's seeds it is the one that the selection CLIP liked best: the judges only report.
    """
    target, aside = root / FOLDER, root / f".{FOLDER}.tmp"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        chosen = [_liked(row) for row in members]
        for trial in chosen:
            shutil.copytree(trial.path / "adapter", aside / trial.path.name)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except OSError as error:
        raise MachineError(
            f"cannot write {target}: {error}; free space or mend the run folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [target / trial.path.name for trial in chosen]


def _liked(row: Row) -> Trial:
    return max(row.finished, key=lambda trial: (trial.score or 0.0, trial.path.name))


def _ua(row: Row) -> float:
    return row.means["ua"].value


def _beats(row: Row, other: Row) -> bool:
    better = _ua(row) >= _ua(other) and row.kept >= other.kept
    return better and (_ua(row) > _ua(other) or row.kept > other.kept)
