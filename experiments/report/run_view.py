"""One run as the page shows it: figures, curves, tiles and cost, read from the run folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import settings
from experiments.evaluation.headline import FURTHER, HEADLINE
from experiments.evaluation.samples import VARIETY
from experiments.report import charts, confusion, tiles
from experiments.runs.own_files import inside
from experiments.runs.rows import EventRow, read_rows
from experiments.runs.run_state import RunState, read_state
from rl_unlearn import reward_names
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.attacks.record import Attacks, read_attacks
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.evaluation import record
from rl_unlearn.evaluation.comparison import definitions
from rl_unlearn.evaluation.metrics import accuracies
from rl_unlearn.evaluation.record import (
    Cost,
    Evaluation,
    Figure,
    ModelRecord,
    Neighbour,
    read_evaluation,
)

HUES = 6
LEVEL = 1.0
"""Percentage points between models from which there is a trade-off to see."""
CANVAS_JUDGES = "the canvas's judges, which training never sees"


@dataclass(frozen=True)
class Run:
    """Content of a run folder."""

    name: str
    number: int
    path: Path
    config: Config
    state: RunState
    evaluation: Evaluation | None
    elsewhere: list[Evaluation]
    """Evaluations whose images were drawn by another scheduler than the run's own."""
    attacks: Attacks | None
    metrics: list[dict[str, Any]]
    rows: list[tiles.Row]
    varied: list[tiles.Row]
    """The concept's prompts, each from several noises."""
    title: str
    """The name to show: two folders of one name are told apart by their parents."""

    @property
    def hue(self) -> int:
        """Colour of the style sheet; colours come round again."""
        return 1 + (self.number - 1) % HUES

    @property
    def before(self) -> ModelRecord | None:
        """The untouched model: among the models compared if there are any, else the side called
        before.
        """
        return _untouched(self.evaluation)

    @property
    def after(self) -> ModelRecord | None:
        """The run's own model, likewise."""
        return _adapted(self.evaluation, self.name)

    @property
    def judge(self) -> str:
        """Who judged, in words."""
        named = self.evaluation.protocol.judge if self.evaluation else ""
        judge = named or self.config.evaluation.judge
        named = CANVAS_JUDGES if judge == "canvas" else judge
        of_trait = self.evaluation.protocol.image_judge if self.evaluation else ""
        return f"{named}, and of the trait {of_trait}" if of_trait else named

    @property
    def model(self) -> str:
        """The model that forgot."""
        return "the emoji canvas" if self.config.model.path == "canvas" else self.config.model.path

    @property
    def forgotten(self) -> tuple[str, ...]:
        """The concepts without their domain; none where a trait is forgotten: all are kept."""
        if self.trait is not None:
            return ()
        if self.config.prompts.target_file:
            return (self.config.concept,)
        return tuple(part.strip().split(":", 1)[-1] for part in self.config.concept.split(","))

    @property
    def trait(self) -> str | None:
        """What sees what was forgotten, if no word names it."""
        return reward_names.trait(self.config.concept)

    @property
    def command(self) -> str:
        """The exact command line."""
        return shlex.join(self.state.argv)


def _untouched(evaluation: Evaluation | None) -> ModelRecord | None:
    if evaluation is None:
        return None
    return next((m for m in evaluation.models if m.name == "untouched"), evaluation.before)


def _adapted(evaluation: Evaluation | None, name: str) -> ModelRecord | None:
    if evaluation is None:
        return None
    judged = [m for m in evaluation.models if m.name == name]
    others = [m for m in evaluation.models if m.name != "untouched"]
    return next(iter(judged or others[:1]), evaluation.after)


def schedulers(run: Run) -> list[tuple[str, ModelRecord | None, ModelRecord | None]]:
    """Returns `(what drew, before, after)` of the run's own evaluation and of the others; empty
    where there are no others.
    """
    own = [run.evaluation] if run.evaluation else []
    return [
        (other.protocol.drawn_by, _untouched(other), _adapted(other, run.name))
        for other in (own + run.elsewhere if run.elsewhere else [])
    ]


def read(path: Path, number: int) -> Run:
    """Reads a run folder; DataError if it is none or if a file in it is damaged."""
    config, state = inside(path, "config.yaml"), inside(path, "run_state.json")
    if not config.is_file() or not state.is_file():
        raise DataError(f"{path} is no run folder: give a folder that `train` or `demo` wrote")
    return Run(
        path.resolve().name,
        number,
        path,
        settings.recorded(config),
        read_state(path),
        read_evaluation(inside(path, record.NAME)),
        [
            other
            for file in sorted(path.glob(record.OTHERS))
            if (other := read_evaluation(inside(path, file.name))) is not None
        ],
        read_attacks(inside(path, "attacks.json")),
        read_rows(inside(path, "metrics.jsonl"), EventRow),
        tiles.read(path),
        tiles.read(path, VARIETY),
        path.resolve().name,
    )


def figure(side: ModelRecord | None, key: str) -> Figure | None:
    """Returns one figure of a side, None if it was not measured."""
    measured: Figure | None = getattr(side, key) if side is not None else None
    return measured


def meanings(runs: Sequence[Run], key: str) -> list[str]:
    """Returns what a figure means: once, or twice where a trait stands beside a concept."""
    meant: dict[bool, str] = {}
    for run in sorted(runs, key=lambda run: run.trait is not None):
        known = definitions(run.trait is not None)
        if run.evaluation is not None:
            known |= run.evaluation.protocol.definitions
        if key in known:
            meant.setdefault(run.trait is not None, known[key])
    return list(meant.values())


def further(run: Run) -> list[tuple[str, str, Figure | None, Figure]]:
    """Returns `(name, key, before, after)` of what was measured beside the headline."""
    rows = []
    for key, name in FURTHER.items():
        new = figure(run.after, key)
        if new is not None and run.after is not None:
            features = (
                f" on {run.after.feature_extractor or 'unnamed'} features"
                if key in ("kid", "fid", "anchor_kid")
                else ""
            )
            rows.append((name + features, key, figure(run.before, key), new))
    return rows


def place(run: Run) -> list[tuple[str, str, Figure]]:
    """Returns `(name, key, figure)` of what stands in the concept's place: how much it is the
    anchor, and how varied.
    """
    return [(name, key, new) for name, key, _, new in further(run) if key in ("anchor", "spread")]


def summary(run: Run) -> str:
    """Returns the run in two sentences."""
    lead = f"An adapter trained to make {run.model} stop drawing “{run.config.concept}”."
    if run.trait is not None:
        lead = f"An adapter trained to make {run.model} stop drawing what “{run.trait}” sees."
    before, after = run.before, run.after
    if before is None or after is None or before.ua is None or after.ua is None:
        return lead
    asked, follow = "Asked for it, {} of the images no longer show it", "the rest of the prompt"
    if run.trait is not None:
        asked, follow = "On its prompts, {} of the images do not show it", "all of the prompt"
    sentences = (
        (f"{asked} ({{}} before)", "ua"),
        (f"{{}} of them still follow {follow} ({{}} before)", "coherence"),
        ("other concepts are still drawn in {} of the cases ({} before)", "ira"),
    )
    words = []
    for sentence, key in sentences:
        old, new = figure(before, key), figure(after, key)
        if old is not None and new is not None:
            words.append(sentence.format(f"{new.value:.1f}\u00a0%", f"{old.value:.1f}\u00a0%"))
    return f"{lead} {'; '.join(words)}."


def others(runs: Sequence[Run]) -> list[ModelRecord]:
    """Returns further models that were judged beside these runs."""
    models = {
        model.name: model for run in runs if run.evaluation for model in run.evaluation.models
    }
    for name in ["untouched", *(run.after.name for run in runs if run.after)]:
        models.pop(name, None)
    return list(models.values())


def trade_offs(runs: Sequence[Run]) -> tuple[list[tuple[str, charts.Scatter]], list[str]]:
    """Returns UA against what should stay, a chart for each, and the names of what is the same for
    all models: there is nothing to see. Hue 0 is the untouched model.
    """
    untouched = next((run.before for run in runs if run.before), None)
    models = [("untouched", 0, untouched)] + [(run.title, run.hue, run.after) for run in runs]
    models += [
        (model.name, 1 + i % HUES, model) for i, model in enumerate(others(runs), start=len(runs))
    ]
    drawn, level = [], []
    for key, name in list(HEADLINE.items())[1:]:
        places = [
            (label, hue, figure(model, "ua"), figure(model, key)) for label, hue, model in models
        ]
        marks = [
            (label, hue, span(x), span(y))
            for label, hue, x, y in places
            if x is not None and y is not None
        ]
        heights = [y.value for *_, y in marks]
        if len(marks) > 1 and max(heights) - min(heights) >= LEVEL:
            drawn.append((name, charts.scatter(marks)))
        elif len(marks) > 1:
            level.append(name)
    return drawn, level


def span(figure: Figure) -> charts.Span:
    """Returns a figure with its interval, which is empty where none was computed."""
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    return charts.Span(figure.value, low, high)


def damaged(run: Run) -> list[Neighbour]:
    """Returns other concepts that are drawn less often than before."""
    return [near for near in run.after.neighbours if near.after < near.before] if run.after else []


def collateral(run: Run) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Returns `(domain, [(concept, accuracy before, after)])`, the most changed first."""
    tables = []
    for domain, (before, after) in _sides(run).items():
        first, second = accuracies({"": before})[""], accuracies({"": after})[""]
        rows = [(name, first[name], second[name]) for name in first.keys() & second.keys()]
        tables.append((domain, sorted(rows, key=lambda row: (row[2] - row[1], row[0]))))
    return [(domain, rows) for domain, rows in tables if rows]


def confusions(run: Run) -> list[confusion.Pair]:
    """Returns what the judge sees when each concept is asked for, two maps for each domain."""
    domain_of_concept = "style" if run.config.concept.startswith("style:") else "object"
    pairs = [
        confusion.pair(domain, before, after, run.forgotten if domain == domain_of_concept else ())
        for domain, (before, after) in _sides(run).items()
    ]
    return [pair for pair in pairs if pair.shown]


def _sides(run: Run) -> dict[str, tuple[confusion.Rows, confusion.Rows]]:
    before, after = (side.seen_when_asked if side else {} for side in (run.before, run.after))
    return {
        domain: (before[domain], after[domain]) for domain in sorted(before.keys() & after.keys())
    }


def seen_as(run: Run) -> list[tuple[str, int]]:
    """Returns what the judge saw on the images that ask for the concept, most frequent first."""
    return sorted(run.after.seen_as.items(), key=lambda item: -item[1]) if run.after else []


def cost(run: Run) -> list[tuple[str, str]]:
    """Returns what the run took, by name."""
    training = run.state.training
    training_facts = (
        ("images drawn for training", training.images_used),
        ("updates", training.updates),
        ("seconds, training and evaluation", training.wall_seconds),
    )
    rows = [(name, f"{value:,.0f}") for name, value in training_facts if value is not None]
    rows.append(("seed", str(run.config.seed)))
    if run.state.device is not None:
        rows.append(("device", run.state.device))
    if run.state.commit is not None:
        rows.append(("commit", _short(run.state.commit)))
    measured = run.after.cost if run.after else Cost()
    if measured.seconds is not None:
        rows.append(("seconds to judge it", f"{measured.seconds:,.0f}"))
    if measured.peak_memory_bytes is not None:
        rows.append(("peak memory while it was judged", size(measured.peak_memory_bytes)))
    file = inside(run.path, f"adapter/{FILE_NAME}")
    stored = measured.storage_bytes or (file.stat().st_size if file.is_file() else None)
    if stored is not None:
        rows.append(("adapter on disk", size(stored)))
    return rows


def _short(commit: str) -> str:
    """Returns so much of a commit as git needs to find it, with its mark of changes."""
    name, dash, mark = commit.partition("-")
    return name[:12] + dash + mark


def size(count: float) -> str:
    """Returns a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
