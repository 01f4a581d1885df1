"""One model against the untouched one: every figure of an evaluation, as `evaluation.json` holds
them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.config import Config
from rl_unlearn.evaluation.distances import distances
from rl_unlearn.evaluation.images import Plan, Seen
from rl_unlearn.evaluation.intervals import interval, resample
from rl_unlearn.evaluation.metrics import (
    DEFINITIONS,
    Rates,
    asked_labels,
    by_prompt,
    neighbours,
    rates,
    targets,
)
from rl_unlearn.evaluation.record import ModelRecord
from rl_unlearn.evaluation.verdict import Signs, judge_signs
from rl_unlearn.prompts import PromptBook

UNTOUCHED = "untouched"

ALL_DEFINITIONS = DEFINITIONS | {
    "similarity": "100 times the CLIP cosine between the model's image and the untouched model's "
    "of the same prompt and noise, on the concept's prompts; another concept's images score what "
    "the verdict calls a stranger's",
    "clip_score": "100 times the CLIP cosine between image and prompt, on the prompts to keep",
    "kid": "kernel distance to the untouched model's images on the prompts to keep, in the judge's "
    "features; not comparable with Inception-KID, and a little below 0 for images that share their "
    "noise and hardly changed",
    "fid": "Fréchet distance between the same images in the judge's features; not comparable with "
    "Inception-FID",
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


def measure_reference(seen: Seen, plan: Plan, book: PromptBook, config: Config) -> Reference:
    """Measures the untouched model's images."""
    prompts = torch.tensor(plan.prompts)
    gone = torch.tensor([book.prompts[i].gone for i in plan.prompts])
    asked, chosen = targets(prompts, book), config.evaluation
    target, kept = asked & ~gone, ~asked & ~gone
    other = asked_labels(prompts, book)[book.other_domain]
    return Reference(
        seen,
        rates(seen.labels, prompts, book, chosen.resamples, chosen.seed),
        prompts,
        target,
        kept,
        resample(prompts, chosen.resamples, chosen.seed),
        stranger_similarity(seen.embeddings, target, kept, other),
    )


def reference_row(reference: Reference, book: PromptBook, feature_extractor: str) -> ModelRecord:
    """Returns the untouched model's row of `models`, without what would compare it with itself."""
    return ModelRecord(
        name=UNTOUCHED,
        **_rates_row(reference.rates),
        **_clip_row(reference.seen, reference),
        confidence=_confidence(reference.seen, reference, book),
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
    after = rates(
        seen.labels, reference.prompts, book, config.evaluation.resamples, config.evaluation.seed
    )
    kept = reference.kept
    cosines = 100 * (seen.embeddings * reference.seen.embeddings).sum(dim=1)
    similarity = interval(cosines, by_prompt(reference.prompts, reference.target), reference.counts)
    apart = distances(reference.seen.features[kept], seen.features[kept], config.evaluation.seed)
    sure = _confidence(seen, reference, book)
    before = reference.rates
    damage = neighbours(before, after, book)
    worst = ""
    if damage:
        worst = f"{damage[0].name} ({damage[0].before:.0f} to {damage[0].after:.0f} %)"
    sure_before = _confidence(reference.seen, reference, book)
    verdict = judge_signs(
        Signs(
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


def _confidence(seen: Seen, reference: Reference, book: PromptBook) -> dict[str, float]:
    weights = by_prompt(reference.prompts, reference.target)
    return interval(100 * seen.sure[book.concept_domain], weights, reference.counts).row()
