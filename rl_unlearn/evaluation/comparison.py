"""One model against the untouched one: every figure of an evaluation, as `evaluation.json` holds
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.anchors import Anchors
from rl_unlearn.config import Config
from rl_unlearn.evaluation.distances import distances
from rl_unlearn.evaluation.images import Plan, Seen
from rl_unlearn.evaluation.intervals import Interval, interval, resample
from rl_unlearn.evaluation.metrics import (
    DEFINITIONS,
    TRAIT_DEFINITIONS,
    Rates,
    asked_labels,
    by_prompt,
    neighbours,
    rates,
    targets,
)
from rl_unlearn.evaluation.place import Place, kernel_distance, spread
from rl_unlearn.evaluation.record import Figure, ModelRecord
from rl_unlearn.evaluation.trait_verdict import judge_trait
from rl_unlearn.evaluation.verdict import Signs, judge_signs
from rl_unlearn.prompts import PromptBook

UNTOUCHED = "untouched"

_DEFINITIONS = DEFINITIONS | {
    "similarity": "100 times the CLIP cosine between the model's image and the untouched model's "
    "of the same prompt and noise, on the concept's prompts; another concept's images score what "
    "the verdict calls a stranger's",
    "clip_score": "100 times the CLIP cosine between image and prompt, on the prompts to keep",
    "kid": "kernel distance to the untouched model's images on the prompts to keep, in the judge's "
    "features; not comparable with Inception-KID, and a little below 0 for images that share their "
    "noise and hardly changed",
    "fid": "Fréchet distance between the same images in the judge's features; not comparable with "
    "Inception-FID",
    "anchor": "mean probability that the judge gives the anchor on the concept's images; of the "
    "untouched model, on its own images of the anchor",
    "spread": "how much the images of one prompt of the concept differ among themselves, in "
    "percent of how much the untouched model's images of the anchor do, by the judge's features",
    "anchor_kid": "kernel distance of the concept's images to the untouched model's images of the "
    "anchor, in the judge's features",
    "confidence": "mean probability that the judge gives the class it sees in the concept's "
    "domain, on the concept's images",
    "seen_when_asked": "for each concept asked for, the share of its images on which the judge "
    "sees each concept of the domain, from prompts to keep; the forgotten concept's from its own "
    "prompts",
    "neighbours": "accuracy on every other concept before and after, from prompts to keep, the "
    "most damaged first",
    "broken": "whether a high UA comes from images that are broken rather than from images of "
    "something else",
    "cost": "seconds and largest memory of the process while the images were drawn; size of the "
    "adapter on disk; training_seconds where the model is a run",
    "seeds": "image n of a prompt starts from the noise named by (evaluation.seed, prompt, n), the "
    "same for all models",
}
_TRAIT_DEFINITIONS = TRAIT_DEFINITIONS | {
    "similarity": "100 times the CLIP cosine between the model's image and the untouched model's "
    "of the same prompt and noise, on the prompts that shall lose the trait",
    "confidence": "mean probability that the judge gives the class it sees in the domain of "
    "`prompts.targets`, on the images that shall lose the trait",
    "seen_when_asked": "for each concept asked for, the share of its images on which the judge "
    "sees each concept of the domain",
    "neighbours": "accuracy on every concept before and after, the most damaged first",
}
_OF_ANCHOR = ("anchor", "spread", "anchor_kid")


def definitions(of_trait: bool) -> dict[str, str]:
    """Returns what the figures of an evaluation mean, by name: of a trait, which has no anchor, or
    of a concept.
    """
    if not of_trait:
        return dict(_DEFINITIONS)
    known = _DEFINITIONS | _TRAIT_DEFINITIONS
    return {name: meaning for name, meaning in known.items() if name not in _OF_ANCHOR}


@dataclass(frozen=True)
class Anchor:
    """The untouched model's images of what shall stand in the concept's place."""

    place: Place
    probability: Interval
    """Percent."""
    classes: Mapping[int, int]
    """The anchor's class for each concept's."""

    @classmethod
    def measured(
        cls, seen: Seen, plan: Plan, anchors: Anchors, book: PromptBook, config: Config
    ) -> "Anchor":
        """Measures them; ``plan``, which is not empty, and ``seen`` are of
        :func:`images.plan_of_anchors`.
        """
        prompts, chosen = torch.tensor(plan.prompts), config.evaluation
        asked = asked_labels(prompts, book)[book.concept_domain]
        place = Place(_of_class(seen, book, asked), seen.features, prompts)
        probability = interval(
            100 * place.probability,
            by_prompt(prompts, torch.ones_like(prompts, dtype=torch.bool)),
            resample(prompts, chosen.resamples, chosen.seed),
        )
        return cls(place, probability, anchors.classes)


@dataclass(frozen=True)
class Reference:
    """All that a comparison needs of the untouched model's images, measured once."""

    seen: Seen
    rates: Rates
    prompts: Int[Tensor, " images"]
    target: Bool[Tensor, " images"]
    """Asked to show the concept."""
    kept: Bool[Tensor, " images"]
    """Asked to show the rest. Neither: what an earlier adapter forgot, which counts nowhere."""
    counts: Float[Tensor, "resamples images"]
    stranger: float
    """Percent; see :class:`rl_unlearn.evaluation.verdict.Signs`."""
    near: frozenset[int]
    """Classes of the concept's domain that are most like it."""
    anchor: Anchor | None
    """None where no prompt asks for it."""


def measure_reference(
    seen: Seen,
    plan: Plan,
    book: PromptBook,
    config: Config,
    near: frozenset[int] = frozenset(),
    anchor: Anchor | None = None,
) -> Reference:
    """Measures the untouched model's images; ``near`` and ``anchor`` as :class:`Reference` has
    them.
    """
    prompts = torch.tensor(plan.prompts)
    gone = torch.tensor([book.prompts[i].gone for i in plan.prompts])
    asked, chosen = targets(prompts, book), config.evaluation
    target, kept = asked & ~gone, ~asked & ~gone
    other = asked_labels(prompts, book)[book.other_domain]
    return Reference(
        seen,
        rates(seen.labels, prompts, book, chosen.resamples, chosen.seed, near, seen.shown),
        prompts,
        target,
        kept,
        resample(prompts, chosen.resamples, chosen.seed),
        stranger_similarity(seen.embeddings, target, kept, other),
        near,
        anchor,
    )


def reference_row(reference: Reference, book: PromptBook, feature_extractor: str) -> ModelRecord:
    """Returns the untouched model's row of `models`, without what would compare it with itself."""
    return ModelRecord(
        name=UNTOUCHED,
        **_rates_row(reference.rates),
        **_clip_row(reference.seen, reference),
        confidence=_confidence(reference.seen, reference, book),
        **({"anchor": reference.anchor.probability.row()} if reference.anchor else {}),
        feature_extractor=feature_extractor,
        broken=False,
        verdict="The untouched model, which every other row is compared with.",
    )


def compare(
    name: str,
    seen: Seen,
    reference: Reference,
    book: PromptBook,
    config: Config,
    feature_extractor: str,
) -> tuple[Rates, ModelRecord]:
    """Returns a model's rates, and its row of `models`."""
    chosen = config.evaluation
    after = rates(
        seen.labels, reference.prompts, book, chosen.resamples, chosen.seed, reference.near,
        seen.shown,
    )  # fmt: skip
    kept = reference.kept
    cosines = 100 * (seen.embeddings * reference.seen.embeddings).sum(dim=1)
    similarity = interval(cosines, by_prompt(reference.prompts, reference.target), reference.counts)
    apart = distances(reference.seen.features[kept], seen.features[kept], chosen.seed)
    sure = _confidence(seen, reference, book)
    placed = _placed(seen, reference, book, chosen.seed)
    before = reference.rates
    damage = neighbours(before, after, book)
    worst = ""
    if damage:
        worst = f"{damage[0].name} ({damage[0].before:.0f} to {damage[0].after:.0f} %)"
    sure_before = _confidence(reference.seen, reference, book)
    anchor = reference.anchor
    verdict = (judge_signs if book.trait is None else judge_trait)(
        Signs(
            anchor=_named(anchor, book) if anchor else "",
            anchored=placed.anchor.value if placed.anchor else None,
            anchored_before=anchor.probability.value if anchor else None,
            spread=placed.spread.value if placed.spread else None,
            ua=after.ua.value,
            ua_before=before.ua.value,
            coherence=after.coherence.value,
            coherence_before=before.coherence.value,
            sure=sure["value"],
            sure_before=sure_before["value"],
            similarity=similarity.value,
            stranger=reference.stranger,
            ira=after.ira.value,
            ira_before=before.ira.value,
            cra=after.cra.value,
            cra_before=before.cra.value,
            worst=worst,
        )
    )
    row = ModelRecord(
        name=name,
        **_rates_row(after),
        similarity=similarity.row(),
        **_clip_row(seen, reference),
        confidence=sure,
        anchor=placed.anchor,
        spread=placed.spread,
        anchor_kid=placed.anchor_kid,
        **({"kid": apart.kid, "fid": apart.fid} if apart else {}),
        feature_extractor=feature_extractor,
        broken=verdict.broken,
        verdict=verdict.sentence,
        neighbours=damage,
    )
    return after, row


def stranger_similarity(
    embeddings: Float[Tensor, "images embedding"],
    target: Bool[Tensor, " images"],
    kept: Bool[Tensor, " images"],
    other: Int[Tensor, " images"],
) -> float:
    """Returns what images of something else, well drawn in the right style, would score: 100 times
    the mean cosine between the concept's images and other concepts' with the same label of the
    other domain; 0 if there are none.
    """
    means = [
        (embeddings[target & (other == label)] @ embeddings[kept & (other == label)].T).mean()
        for label in other[target].unique()
        if (kept & (other == label)).any()
    ]
    return 100 * torch.stack(means).mean().item() if means else 0.0


def _rates_row(rates: Rates) -> dict[str, Any]:
    named = {name: interval.row() for name, interval in rates.intervals().items()}
    return named | {"seen_when_asked": rates.seen_when_asked, "seen_as": rates.seen_as}


def _clip_row(seen: Seen, reference: Reference) -> dict[str, Any]:
    weights = by_prompt(reference.prompts, reference.kept)
    return {"clip_score": interval(seen.clip_scores, weights, reference.counts).row()}


def _of_class(
    seen: Seen, book: PromptBook, classes: Int[Tensor, " images"]
) -> Float[Tensor, " images"]:
    """Returns the judge's probability of one class of the concept's domain for each image."""
    log_probs = seen.log_probs[book.concept_domain]
    return log_probs.gather(1, classes[:, None]).squeeze(1).exp()


@dataclass(frozen=True)
class _Placed:
    """Figures of what stands in the concept's place."""

    anchor: Figure | None = None
    spread: Figure | None = None
    anchor_kid: Figure | None = None


def _placed(seen: Seen, reference: Reference, book: PromptBook, seed: int) -> _Placed:
    """Returns them; none where no prompt asks for the anchor."""
    anchor, target = reference.anchor, reference.target
    if anchor is None:
        return _Placed()
    asked = asked_labels(reference.prompts, book)[book.concept_domain]
    wanted = torch.tensor([anchor.classes.get(int(concept), 0) for concept in asked])
    probability = _of_class(seen, book, wanted)
    place = Place(probability[target], seen.features[target], reference.prompts[target])
    varied, apart = spread(place, anchor.place), kernel_distance(place, anchor.place, seed)
    weights = by_prompt(reference.prompts, target)
    return _Placed(
        Figure(**interval(100 * probability, weights, reference.counts).row()),
        None if varied is None else Figure(value=varied),
        None if apart is None else Figure(value=apart),
    )


def _named(anchor: Anchor, book: PromptBook) -> str:
    names = book.names[book.concept_domain]
    return " or ".join(dict.fromkeys(names[place] for place in anchor.classes.values()))


def _confidence(seen: Seen, reference: Reference, book: PromptBook) -> dict[str, float]:
    weights = by_prompt(reference.prompts, reference.target)
    return interval(100 * seen.sure[book.concept_domain], weights, reference.counts).row()
