"""Which step size each estimator gets, by the selection CLIP alone: a table of a sweep over
`learner.lr`.

    python -m experiments.studies.step_sizes outputs/step-sizes docs/studies/step-sizes.json

A cell has the best validation's score, mean over the concepts, and in brackets the judge's UA,
which is not used. Bold is the choice: of the step sizes within a hundredth of the highest score the
one whose runs are forgotten after the fewest images (a run that never is counts as infinitely
many), and of these the one with the higher score.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments.files import write_json
from experiments.studies.front import Point, read_points

ALIKE = 0.01
"""Scores that differ by no more are taken for the same."""


def score(cell: Point) -> float:
    """Returns the selection CLIP's score, mean over the concepts, at most 1.05."""
    return statistics.mean(trial.score for trial in cell.trials if trial.score is not None)


def images(cell: Point) -> float:
    """Returns the mean number of images until the concept counted as forgotten."""
    return statistics.mean(trial.figures.get("images_until", math.inf) for trial in cell.trials)


def read_cells(root: Path) -> dict[str, list[Point]]:
    """Returns the cells by estimator, in the order of step sizes."""
    by_estimator: dict[str, list[Point]] = {}
    for cell in read_points(root, "estimator.name", "learner.lr"):
        by_estimator.setdefault(cell.line, []).append(cell)
    return by_estimator


def choose(cells: Sequence[Point]) -> Point:
    """Returns the best step size of one estimator."""
    highest = max(score(cell) for cell in cells)
    return min(
        (c for c in cells if score(c) >= highest - ALIKE),
        key=lambda cell: (images(cell), -score(cell)),
    )


def markdown(by_estimator: dict[str, list[Point]]) -> str:
    """Returns a row for each estimator, a column for each step size."""
    sizes = sorted({cell.point for cells in by_estimator.values() for cell in cells})
    lines = [
        f"| best score (UA) | {' | '.join(f'{lr:g}' for lr in sizes)} |",
        "|---|" + "--:|" * len(sizes),
    ]
    for estimator, cells in by_estimator.items():
        chosen, texts = choose(cells), dict.fromkeys(sizes, "")
        for cell in cells:
            best = f"**{score(cell):.3f}**" if cell is chosen else f"{score(cell):.3f}"
            judged = ", ".join(f"{trial.figures['ua']:.0f}" for trial in cell.trials)
            texts[cell.point] = f"{best} ({judged})"
        lines.append(f"| `{estimator}` | {' | '.join(texts.values())} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Prints the table; writes every run as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep over estimators and learner.lr")
    parser.add_argument("json", type=Path)
    args = parser.parse_args(argv)
    by_estimator = read_cells(args.sweep)
    runs = [
        {
            "estimator": cell.line,
            "lr": cell.point,
            "concept": trial.settings.get("concept"),
            "score": trial.score,
        }
        | {"chosen": cell is choose(cells), **trial.figures}
        for cells in by_estimator.values()
        for cell in cells
        for trial in cell.trials
    ]
    write_json(args.json, {"runs": runs})
    print(markdown(by_estimator))  # noqa: T201


if __name__ == "__main__":
    main()
