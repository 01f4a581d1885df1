"""The breadth study: run folders of many concepts as one table, worst first, and one picture that
is not picked.

    python -m experiments.studies.breadth outputs/breadth \\
        docs/studies/breadth.json docs/pictures/breadth.png

With `--keep`, rows of other runs that the JSON file holds already stay in it. Every adapter is
judged again by the canvas's panel (other seeds and kinds of networks); its images are in the cache.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from experiments.evaluation import comparing, pictures
from experiments.evaluation.headline import HEADLINE
from experiments.evaluation.samples import Sheet
from experiments.files import read_json, write_bytes, write_json
from experiments.report import tiles
from experiments.verbs import common
from rl_unlearn.adapters.adapter import read_adapter
from rl_unlearn.adapters.adapter_file import locate
from rl_unlearn.errors import DataError
from rl_unlearn.evaluation.judges import load_judge
from rl_unlearn.evaluation.record import NAME, Evaluation, read_evaluation
from rl_unlearn.prompts import PromptBook

PANEL = "canvas:panel"
TILE = 48


def judge_by_panel(run: Path, console: Console) -> dict[str, float]:
    """Returns UA, coherence, IRA and CRA of a run's adapter in the eyes of the panel, percent."""
    config = common.run_config(run, [f"evaluation.judge={PANEL}", f"output={run.parent}"])
    candidate = comparing.Candidate(
        run.name, config.lora, read_adapter(run), locate(run).stat().st_size
    )
    book = PromptBook.from_config(config)
    return (
        comparing.judge_side_by_side([candidate], book, load_judge(config), config, console)
        .after[0]
        .headline()
    )


def row(run: Path, console: Console) -> dict[str, Any]:
    """Returns what one run folder holds, and the panel's view of it."""
    evaluation = read(run)
    judged = evaluation.content()
    return {
        "concept": evaluation.concept,
        "seed": evaluation.seed,
        **{name: judged["after"][name] for name in HEADLINE},
        "before": judged["before"],
        "panel": judge_by_panel(run, console),
        "seen_as": evaluation.models[1].seen_as,
        "target_images": evaluation.counts.target_images,
        "images": evaluation.images_used,
        "seconds": evaluation.wall_seconds,
    }


def read(run: Path) -> Evaluation:
    """Returns the evaluation of a run; DataError if it has none, or none of an adapter."""
    evaluation = read_evaluation(run / NAME)
    if evaluation is None or len(evaluation.models) < 2:
        raise DataError(f"{run / NAME} holds no evaluation of an adapter: evaluate the run first")
    return evaluation


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a row for each run, the lowest UA first, as Markdown; the mean of all runs below."""
    lines = [
        "| concept | seed | UA | coherence | IRA | CRA | panel: UA | coherence | IRA | CRA | seen "
        "instead |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(rows, key=lambda r: (r["ua"], r["panel"]["ua"], r["concept"], r["seed"])):
        figures = [*(run[name] for name in HEADLINE), *(run["panel"][name] for name in HEADLINE)]
        seen = ", ".join(f"{name} {count}" for name, count in list(run["seen_as"].items())[:3])
        cells = [run["concept"], str(run["seed"]), *(f"{value:.1f}" for value in figures), seen]
        lines.append("| " + " | ".join(cells) + " |")
    means = [statistics.mean(run[name] for run in rows) for name in HEADLINE]
    means += [statistics.mean(run["panel"][name] for run in rows) for name in HEADLINE]
    lines.append("| **mean** | | " + " | ".join(f"**{value:.1f}**" for value in means) + " | |")
    return "\n".join(lines)


def gallery(runs: list[Path]) -> Image.Image:
    """Returns a picture: for each run the row of its samples that asks for the concept, untouched
    on the left and adapted on the right.
    """
    cells, names = [], []
    for run in runs:
        sheet = tiles.read_sheet(run)
        if sheet is None:
            raise DataError(f"{run} holds no samples: evaluate it first")
        width, height = sheet.size
        line = []
        for side in (Sheet.BEFORE, Sheet.AFTER):
            with Image.open(run / "samples" / side) as whole:
                for place in range(8):
                    # A style is asked for with eight objects, an object in eight styles.
                    tile = whole.convert("RGB").crop(
                        (place * width, 0, (place + 1) * width, height)
                    )
                    line.append(tile.resize((TILE, TILE), Image.Resampling.LANCZOS))
        cells.append(line)
        names.append(read(run).concept)
    return pictures.grid(cells, names, [""] * 16, "before, and after (right half)")


def main(argv: list[str]) -> None:
    """Prints the table; writes the rows as JSON and the picture of all runs of seed 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder of run folders")
    parser.add_argument("json", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--keep", action="store_true", help="add to the rows of the JSON file")
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    runs = sorted(path.parent for path in args.runs.glob(f"*/{NAME}"))
    new = [row(run, console) for run in runs]
    done = {(entry["concept"], entry["seed"]) for entry in new}
    kept = read_json(args.json).get("rows", []) if args.keep else []
    rows = [entry for entry in kept if (entry["concept"], entry["seed"]) not in done] + new
    write_json(
        args.json,
        {"command": " ".join(["python -m experiments.studies.breadth", *argv]), "rows": rows},
    )
    first = [run for run, entry in zip(runs, new, strict=True) if entry["seed"] == 0]
    write_bytes(args.picture, pictures.to_png(gallery(first)))
    print(table(rows))  # noqa: T201
    print(json.dumps({"runs": len(rows)}), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
