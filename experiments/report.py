"""The report of a run: one HTML file made from what the run folder holds, readable offline."""

import base64
import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments import settings
from experiments.files import write_text
from rl_unlearn.config import Config

MEASURES = (
    ("UA", "ua", "unlearning: images asked to show the concept that do not show it"),
    ("Coherence", "coherence", "the same images still follow the rest of their prompt, so they are not just broken"),
    ("IRA", "ira", "retention in the concept's own domain: other concepts still drawn"),
    ("CRA", "cra", "retention in the other domain"),
)

CANVAS_JUDGES = "the canvas's judges, which training never sees"


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from its files."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(_content(folder))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _content(folder: Path) -> dict[str, Any]:
    config = settings.load([str(folder / "config.yaml")], environ={})
    evaluation, state = read_json(folder / "evaluation.json"), read_json(folder / "run_state.json")
    training, counts = state.get("training", {}), evaluation.get("counts", {})
    return {
        "concept": config.concept,
        "summary": _summary(config, evaluation),
        "headline": _headline(evaluation),
        "counts": [(name.replace("_", " "), count) for name, count in counts.items() if isinstance(count, int)],
        "seen_as": list(counts.get("seen_as", {}).items()),
        "by_concept": _by_concept(counts.get("by_concept", {})),
        "judge": CANVAS_JUDGES if config.evaluation.judge == "canvas" else config.evaluation.judge,
        "samples": _data_uri(folder / "samples.png"),
        "curves": _data_uri(folder / "curves.png"),
        "cost": [
            ("images drawn for training", f"{training.get('images_used', 0):,}"),
            ("updates", f"{training.get('updates', 0):,}"),
            ("seconds, training and evaluation", f"{training.get('wall_seconds', 0):,.0f}"),
            ("seed", str(config.seed)),
        ],
        "command": shlex.join(state.get("argv", [])),
        "versions": sorted(state.get("packages", {}).items()),
        "config": settings.dump(config),
    }


def _summary(config: Config, evaluation: dict[str, Any]) -> str:
    model = "the emoji canvas" if config.model.path == "canvas" else config.model.path
    lead = f"An adapter trained to make {model} stop drawing “{config.concept}”."
    if not evaluation:
        return lead
    before, after = evaluation["before"], evaluation["after"]
    return (
        f"{lead} Asked for it, {after['ua']:.1f} % of the images no longer show it ({before['ua']:.1f} % before); "
        f"{after['coherence']:.1f} % of them still follow the rest of the prompt ({before['coherence']:.1f} % before). "
        f"Other concepts are still drawn in {after['ira']:.1f} % of the cases ({before['ira']:.1f} % before)."
    )


def _headline(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    if not evaluation:
        return []
    return [
        {"name": name, "meaning": meaning} | {side: f"{evaluation[side][key]:.1f}" for side in ("before", "after")}
        for name, key, meaning in MEASURES
    ]


def _by_concept(sides: dict[str, dict[str, float]]) -> list[tuple[str, str, str]]:
    """Accuracy of each concept before and after, the most changed first."""
    before, after = sides.get("before", {}), sides.get("after", {})
    names = sorted(before.keys() & after.keys(), key=lambda name: -abs(after[name] - before[name]))
    return [(name, f"{before[name]:.1f}", f"{after[name]:.1f}") for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
