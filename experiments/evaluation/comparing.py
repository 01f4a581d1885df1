"""Adapters beside the untouched model in the eyes of a judge, as `evaluation.json` holds them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from actors.images import ModelVariant
from cluster.images import image_source
from experiments import signals
from experiments.console import say
from experiments.evaluation.headline import FURTHER, HEADLINE
from experiments.evaluation.image_cache import CachedImages, cached
from rl_unlearn import trait_source, traits
from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.anchors import anchors_of
from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.config import Config, Lora
from rl_unlearn.evaluation.comparison import (
    UNTOUCHED,
    Anchor,
    compare,
    definitions,
    measure_reference,
    reference_row,
)
from rl_unlearn.evaluation.images import examine, plan, plan_of_anchors
from rl_unlearn.evaluation.judges import ProbabilityJudge
from rl_unlearn.evaluation.metrics import Rates
from rl_unlearn.evaluation.place import nearest
from rl_unlearn.evaluation.record import Cost, Evaluation, Figure, ModelRecord, Protocol
from rl_unlearn.families.pipeline import device_of
from rl_unlearn.image_rewards import ImageReward
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.prompts import PromptBook


@dataclass(frozen=True)
class Candidate:
    """An adapter to be judged."""

    name: str
    lora: Lora
    state: AdapterState
    storage_bytes: int | None = None
    """Size of its file."""
    training_seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The untouched model and the candidates on the same prompts and noise."""

    protocol: Protocol
    untouched: ModelRecord
    rows: tuple[ModelRecord, ...]
    """One for each candidate."""
    before: Rates
    after: tuple[Rates, ...]

    def evaluation(self, number: int = 0) -> Evaluation:
        """Returns what `evaluation.json` holds of one candidate, but for what its run took."""
        after = self.after[number]
        return Evaluation(
            before=self.before.headline(),
            after=after.headline(),
            counts=after.counts,
            protocol=self.protocol,
            models=[self.untouched, self.rows[number]],
        )


def judge_side_by_side(
    candidates: Sequence[Candidate],
    book: PromptBook,
    judge: ProbabilityJudge,
    config: Config,
    console: Console,
    functions: Mapping[str, ImageReward] | None = None,
) -> Comparison:
    """Draws what the cache lacks, lets the judge look at all of it, and compares.

    `functions`: the caller's own, of which one may judge a trait.
    """
    images_asked, anchors = plan(book, config), anchors_of(config, book)
    anchors_asked = plan_of_anchors(book, config, anchors)
    names = [UNTOUCHED, *(candidate.name for candidate in candidates)]
    variants = [
        ModelVariant(config.lora, None),
        *(ModelVariant(candidate.lora, candidate.state) for candidate in candidates),
    ]
    images: list[CachedImages] = []
    of_anchor: CachedImages | None = None
    with ExitStack() as stack:
        with console.status("starting to draw"):
            source = stack.enter_context(image_source(config))
        signals.install()  # Ray sets its own handlers
        for name, variant in zip(names, variants, strict=True):
            with _bar(console, name) as progress:
                images.append(cached(variant, images_asked, config, source, progress))
            total, drawn = len(images_asked.prompts), images[-1].drawn
            say(console, f"{name}: {total} images, {total - drawn} of them from the cache")
        if anchors_asked.prompts:
            with _bar(console, "the anchor") as progress:
                of_anchor = cached(variants[0], anchors_asked, config, source, progress)
    schedule = Schedule.of(config)
    clip = ZeroShot(
        *load_open_clip(config.selection.clip, "selection"), book.phrases, device_of(config.model)
    )
    trait = None if book.trait is None else traits.function_of(config, "judge", functions or {})
    with console.status("judging"):
        seen = [examine(model.images(), images_asked.texts, judge, clip, trait) for model in images]
        anchor = None
        if of_anchor is not None:
            seen_anchor = examine(of_anchor.images(), anchors_asked.texts, judge, clip)
            anchor = Anchor.measured(seen_anchor, anchors_asked, anchors, book, config)
        classes = clip.classes[book.concept_domain].cpu()
        others = sorted({*range(len(classes))} - {*book.target_classes, *book.gone})
        near = nearest(classes, book.target_classes, others)
        reference = measure_reference(seen[0], images_asked, book, config, near, anchor)
        compared = [
            compare(candidate.name, model, reference, book, config, judge.feature_extractor)
            for candidate, model in zip(candidates, seen[1:], strict=True)
        ]
    return Comparison(
        protocol=Protocol(
            judge=judge.name,
            image_judge="" if book.trait is None else trait_source.named(config, "judge")[1],
            scheduler="" if schedule is None else schedule.name,
            steps=config.sampler.steps if schedule is None else schedule.steps,
            seeds=list(images_asked.numbers),
            prompts=len(book.prompts),
            images=len(images_asked.prompts),
            clip=f"the selection CLIP, {config.selection.clip}",
            definitions=definitions(book.trait is not None),
        ),
        untouched=reference_row(reference, book, judge.feature_extractor).model_copy(
            update={"cost": _cost(images[0])}
        ),
        rows=tuple(
            row.model_copy(update={"cost": _cost(model, candidate)})
            for (_, row), model, candidate in zip(compared, images[1:], candidates, strict=True)
        ),
        before=reference.rates,
        after=tuple(rates for rates, _ in compared),
    )


def show(evaluation: Evaluation, console: Console) -> None:
    """Prints a table with a column for each model, and the verdicts below it."""
    table = Table(
        title=f"forgetting {escape(evaluation.concept)}, percent [95 % interval]",
        title_justify="left",
    )
    table.add_column("")
    for row in evaluation.models:
        table.add_column(escape(row.name), justify="right")
    for key, heading in (HEADLINE | FURTHER).items():
        figures = [getattr(row, key) for row in evaluation.models]
        if any(figure is not None for figure in figures):
            table.add_row(heading, *map(_cell, figures))
    table.add_row("broken", *("[red]yes[/]" if row.broken else "no" for row in evaluation.models))
    console.print(table)
    for row in evaluation.models[1:]:
        say(console, f"{row.name}: {row.verdict}")
    protocol = evaluation.protocol
    of_trait = f", of the trait {protocol.image_judge}" if protocol.image_judge else ""
    say(
        console,
        f"judge: {protocol.judge}{of_trait}; KID and FID in "
        f"{evaluation.models[0].feature_extractor}; drawn by {protocol.drawn_by}",
    )


def _cost(images: CachedImages, candidate: Candidate | None = None) -> Cost:
    known = {"seconds": images.seconds, "peak_memory_bytes": images.peak_memory_bytes}
    if candidate and candidate.storage_bytes is not None:
        known["storage_bytes"] = candidate.storage_bytes
    if candidate and candidate.training_seconds is not None:
        known["training_seconds"] = candidate.training_seconds
    return Cost(**known)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3g}"
    return f"{figure.value:.1f} [dim]\\[{figure.low:.4g}, {figure.high:.4g}][/]"


@contextmanager
def _bar(console: Console, name: str) -> Iterator[Callable[[int, int], None] | None]:
    """Shows a progress bar where somebody can watch it."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"drawing, {escape(name)}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
