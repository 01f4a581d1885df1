"""Our training beside what would be used in its place: supervised erasers, direct reward
backpropagation, policy gradients of the reward alone. Same canvas, concepts, seeds and judges.

    python -m experiments.studies.rivals outputs/rivals docs/studies/rivals.json
    # a part of it; what is finished is not made again:
    python -m experiments.studies.rivals outputs/rivals r.json --concepts cat --seeds 0 --attacks 0

Every cell is a run folder, made by commands that anyone can give. Each is a process of its own with
one thread, `--jobs` at a time, whose CPU-seconds the system counts: those of a training hold
imports, warm-up and validations, not the evaluation.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import COMMAND
from experiments.files import read_json, write_json, write_text
from experiments.studies.breadth import read
from experiments.sweep.naming import safe
from experiments.sweep.table import mean
from rl_unlearn.attacks import record as attacks
from rl_unlearn.errors import DataError

METHODS: Mapping[str, tuple[str, ...]] = {
    "uce": ("erase", "--method", "uce"),
    "esd": ("erase", "--method", "esd"),
    "ca": ("erase", "--method", "ca"),
    "pathwise": ("train", "--inline"),
    "backprop": ("train", "--inline", "estimator.name=backprop"),
    "terminal": (
        "train", "--inline", "estimator.name=terminal", "learner.lr=0.03", "loop.rounds=160",
        "learner.kl_budget=2", "selection.every=16",
    ),
    "uce-pathwise": ("train", "--inline", "--start", "uce", "loop.rounds=8"),
    "ca-pathwise": ("train", "--inline", "--start", "ca", "loop.rounds=8"),
}  # fmt: skip
"""What a method is on the command line; `--start` names the method whose run is gone on from."""
CONCEPTS = ("cat", "frog", "rocket", "wave", "style:fluent")
"""The first was tuned on, the others were not."""
PROBE = ("attack.prefix_restarts=1", "attack.prefix_steps=1", "attack.inversion_steps=200")
"""Attacks whose rows are read: inversion and relearning. The search for words, which finds nothing
on the canvas, is cut short."""
FIGURES = {
    "ua": "UA", "coherence": "coherence", "ira_near": "near IRA", "ira": "IRA", "cra": "CRA",
    "anchor": "anchor", "anchor_kid": "anchor KID", "spread": "spread",
}  # fmt: skip
BROUGHT_BACK = {
    "inversion": "inversion", "relearn 10": "relearned, 10", "relearn 40": "40",
    "relearn 160": "160",
}  # fmt: skip
COST = {"cpu_seconds": "CPU-seconds", "images": "images"}


@dataclass(frozen=True)
class Cell:
    """One method on one concept with one seed."""

    method: str
    concept: str
    seed: int

    def folder(self, root: Path, method: str | None = None) -> Path:
        """Returns the run folder of this cell, or of another method's like it."""
        return root / f"{method or self.method}-{safe(self.concept)}-seed{self.seed}"

    def words(self, root: Path) -> list[str]:
        """Returns the command that makes the run, without its beginning."""
        words = list(METHODS[self.method])
        if "--start" in words:
            place = words.index("--start") + 1
            words[place] = str(self.folder(root, words[place]))
        return [
            *words, "--config", "canvas", "--no-evaluate", "--name", self.folder(root).name,
            f"concept={self.concept}", f"seed={self.seed}", f"output={root}", "cluster.threads=1",
        ]  # fmt: skip


def make(cell: Cell, root: Path, attacked: bool) -> None:
    """Makes the run unless it is there, judges it, and attacks it if asked to.

    Raises DataError with the command and the end of its output if one fails.
    """
    folder = cell.folder(root)
    used = folder / "cpu_seconds.json"
    if not used.exists():
        seconds = _run([*cell.words(root), "--overwrite"])
        write_json(used, {"cpu_seconds": seconds})
    if not (folder / "evaluation.json").exists():
        _run(["evaluate", str(folder)])
    if attacked and not (folder / attacks.NAME).exists():
        _run(["attack", str(folder), *PROBE])


def _run(words: Sequence[str]) -> float:
    """Runs a command with one thread; returns the CPU-seconds of it and all that it waited for."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, *COMMAND[1:], *words]
    with subprocess.Popen(  # noqa: S603
        command, env={**os.environ, **one}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = said.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{' '.join([*COMMAND, *words])} failed: {' '.join(end)}")
    return usage.ru_utime + usage.ru_stime


def figures(cell: Cell, root: Path) -> dict[str, float]:
    """Returns what the run's files say of it: percent, KID, CPU-seconds, images."""
    folder = cell.folder(root)
    evaluation = read(folder)
    judged = evaluation.content()["models"][1]
    found = {name: _value(judged[name]) for name in FIGURES if judged.get(name) is not None}
    found |= read_json(folder / "cpu_seconds.json")
    found["images"] = evaluation.images_used or 0
    brought = attacks.read_attacks(folder / attacks.NAME)
    for row in brought.rows if brought else []:
        if (name := _attack(row.attack, row.budget)) is not None:
            found[name] = row.after.value
    return found


def _value(figure: Any) -> float:
    return float(figure["value"] if isinstance(figure, dict) else figure)


def _attack(name: str, budget: str) -> str | None:
    if name == "inversion":
        return name
    steps = re.fullmatch(r"\d+ images, (\d+) steps", budget)
    return f"{name} {steps[1]}" if name == "relearn" and steps else None


def rows(made: Mapping[Cell, Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """Yields a row for each method: for each figure the mean of the concepts' means, half of its
    95 % t-interval over concepts, and the worst cell. Runs that share a concept are a cluster.
    """
    for method in dict.fromkeys(cell.method for cell in made):
        own = {cell: found for cell, found in made.items() if cell.method == method}
        row: dict[str, Any] = {"method": method, "runs": len(own)}
        for name in (*FIGURES, *BROUGHT_BACK, *COST):
            by_concept: dict[str, list[float]] = {}
            for cell, found in own.items():
                if name in found:
                    by_concept.setdefault(cell.concept, []).append(found[name])
            if not by_concept:
                continue
            average = mean([sum(values) / len(values) for values in by_concept.values()])
            cells = [(found[name], cell) for cell, found in own.items() if name in found]
            bad = max if name in (*BROUGHT_BACK, "anchor_kid", *COST) else min
            value, cell = bad(cells, key=lambda pair: pair[0])
            worst = f"{cell.concept}, seed {cell.seed}"
            row[name] = {
                "mean": average.value, "half": average.half, "concepts": average.n,
                "runs": len(cells), "worst": value, "worst_cell": worst,
            }  # fmt: skip
        yield row


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as Markdown: means, and the worst cell's value in brackets."""
    names = {**FIGURES, **BROUGHT_BACK, **COST}
    lines = ["| method | runs | " + " | ".join(names.values()) + " |"]
    lines.append("|---|--:|" + "--:|" * len(names))
    for row in found:
        cells = []
        for name in names:
            figure, digits = row.get(name), 2 if name == "anchor_kid" else 1
            digits = 0 if name in COST else digits
            cells.append(
                f"{figure['mean']:,.{digits}f} ({figure['worst']:,.{digits}f})" if figure else "–"
            )
        lines.append(f"| {row['method']} | {row['runs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Makes what is missing, method by method and seed by seed; writes the table and its JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("root", type=Path, help="folder for the runs")
    parser.add_argument("out", type=Path, help="JSON file; the table goes beside it as Markdown")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--attacks", nargs="*", type=int, default=[0], help="seeds to attack")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    cells = [
        Cell(method, concept, seed)
        for seed in args.seeds for method in args.methods for concept in args.concepts
    ]  # fmt: skip
    root = args.root.absolute()
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = {cell: pool.submit(make, cell, root, cell.seed in args.attacks) for cell in cells}
        made = {}
        for cell, done in waiting.items():
            done.result()
            made[cell] = figures(cell, root)
            found = list(rows(made))
            every = [
                {"method": c.method, "concept": c.concept, "seed": c.seed, **f}
                for c, f in made.items()
            ]
            write_json(args.out, {"methods": found, "runs": every})
            write_text(args.out.with_suffix(".md"), table(found))
            sys.stdout.write(json.dumps(every[-1]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
