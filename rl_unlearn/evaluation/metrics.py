"""How far forgetting worked, from judged labels alone: UA, IRA and CRA with both denominators,
coherence, collateral.

The measures are UnlearnCanvas's (arXiv 2402.11846), on the prompts of the run's own world.
Published code disagrees on whether the forgotten concept's row belongs in the mean of the retained
accuracies: both are given, under two names. Every mean counts each prompt the same however many
images it has, so quick and full protocols estimate one figure.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.evaluation.intervals import Interval, rate, resample
from rl_unlearn.evaluation.record import Neighbour
from rl_unlearn.prompts import PromptBook

Domain = Literal["object", "style"]
Labels = dict[str, Int[Tensor, " images"]]
Shares = dict[str, dict[str, dict[str, float]]]

DEFINITIONS = {
    "ua": "unlearning accuracy: share of the images asked to show the concept on which the judge "
    "does not see it",
    "ira": "in-domain retain accuracy: mean accuracy over the other concepts of the concept's "
    "domain",
    "ira_near": "the same over the concept's near neighbours: the quarter of the other concepts "
    "whose names are most similar to the selection CLIP",
    "ira_far": "the same over all others",
    "ira_all": "IRA over all concepts of the domain, the forgotten one included: perfect "
    "forgetting lowers it",
    "cra": "cross-domain retain accuracy: accuracy of the other domain's label over the prompts to "
    "keep",
    "cra_all": "the same over all prompts, those of the forgotten concept included",
    "coherence": "accuracy of the other domain's label on the concept's images: broken ones score "
    "a UA of 100 too",
    "interval": "95 % bootstrap interval over images, resampled within each prompt; a rate whose "
    "resamples do not differ, as when all images agree, has Wilson's interval for the effective "
    "number of images",
}
"""The figures of a concept that has a word."""
TRAIT_DEFINITIONS = {
    "ua": "unlearning accuracy: share of the images that shall lose the trait on which the judge "
    "does not see it",
    "ira": "in-domain retain accuracy: mean accuracy over the classes of `prompts.targets`' "
    "domain whose images need lose nothing",
    "ira_near": "the same over the quarter of them whose names are most similar to the selection "
    "CLIP to those that shall lose the trait",
    "ira_all": "IRA over all classes of the domain",
    "cra": "cross-domain retain accuracy: accuracy of the other domain's label over the prompts "
    "whose images need lose nothing",
    "cra_all": "the same over all prompts",
    "coherence": "share of the images that shall lose the trait on which the judge sees object and "
    "style as asked: broken ones score a UA of 100 too",
    "target_object": "accuracy of the object's label on the images that shall lose the trait",
    "target_style": "accuracy of the style's label on the same images",
}
"""The figures that mean something else of a trait, or are its alone."""


@dataclass(frozen=True)
class Rates:
    """Percentages of one model on one concept, as intervals, and what stands behind them."""

    ua: Interval
    ira: Interval
    ira_near: Interval | None
    ira_far: Interval | None
    ira_all: Interval
    cra: Interval
    cra_all: Interval
    coherence: Interval
    target_object: Interval | None
    target_style: Interval | None
    seen_when_asked: Shares
    """Domain, concept asked for, concept seen: share of its images on which the judge sees it, none
    where it is 0. From prompts to keep; the forgotten concept's row from its own."""
    seen_as: dict[str, int]
    """What the judge saw on the target's images, most frequent first."""
    counts: dict[str, int]
    """Images judged: target_images, other_images."""

    @property
    def by_concept(self) -> dict[str, dict[str, float]]:
        """Accuracy on each concept of each domain."""
        return accuracies(self.seen_when_asked)

    def headline(self) -> dict[str, float]:
        """Returns the four figures that belong together."""
        return {
            "ua": self.ua.value,
            "ira": self.ira.value,
            "cra": self.cra.value,
            "coherence": self.coherence.value,
        }

    def intervals(self) -> dict[str, Interval]:
        """Returns every rate that there is by its name in the definitions."""
        names = [name for name in DEFINITIONS | TRAIT_DEFINITIONS if name != "interval"]
        found = {name: getattr(self, name) for name in names}
        return {name: rate for name, rate in found.items() if rate is not None}


def rates(
    seen: Labels,
    prompts: Int[Tensor, " images"],
    book: PromptBook,
    resamples: int = 1000,
    seed: int = 0,
    near: Collection[int] = (),
    shown: Bool[Tensor, " images"] | None = None,
) -> Rates:
    """Aggregates judged labels: ``seen`` holds the judges' classes, ``prompts`` what each image was
    asked to show, ``near`` the classes of the concept's domain that are most like it, ``shown``
    where the trait is seen, if one is to be forgotten.

    Every target prompt and at least one prompt to keep must have an image. Images of what an
    earlier adapter forgot (model.adapters) count nowhere. Deterministic in ``seed``.
    """
    kept = torch.tensor([not book.prompts[i].gone for i in prompts.tolist()])
    seen, prompts = {domain: labels[kept] for domain, labels in seen.items()}, prompts[kept]
    lost = None if shown is None else ~shown[kept]
    in_domain, other = book.concept_domain, book.other_domain
    asked = asked_labels(prompts, book)
    target = targets(prompts, book)
    right = {domain: seen[domain] == asked[domain] for domain in ("object", "style")}
    concepts = torch.tensor(book.target_classes)
    concept = torch.isin(asked[in_domain], concepts)
    names = book.names[in_domain]
    counts = resample(prompts, resamples, seed)

    def retained(chosen: Bool[Tensor, " images"]) -> Interval | None:
        if not chosen.any():
            return None
        return rate(right[in_domain], _by_class(prompts, asked[in_domain], chosen), counts)

    close = torch.isin(asked[in_domain], torch.tensor(sorted(near), dtype=torch.int64))
    ira = retained(~concept)
    assert ira is not None
    labels, numbers = seen[in_domain][target].unique(return_counts=True)
    on_targets = by_prompt(prompts, target)
    rest = right[other]
    of_trait: dict[str, Interval] = {}
    if lost is None:
        lost = ~torch.isin(seen[in_domain], concepts)
    else:
        rest = right["object"] & right["style"]
        of_trait = {domain: rate(right[domain], on_targets, counts) for domain in right}
    return Rates(
        ua=rate(lost, on_targets, counts),
        ira=ira,
        ira_near=retained(~concept & close),
        ira_far=retained(~concept & ~close) if near else None,
        ira_all=rate(
            right[in_domain], _by_class(prompts, asked[in_domain], torch.ones_like(concept)), counts
        ),
        cra=rate(right[other], by_prompt(prompts, ~target), counts),
        cra_all=rate(right[other], by_prompt(prompts, torch.ones_like(target)), counts),
        coherence=rate(rest, on_targets, counts),
        target_object=of_trait.get("object"),
        target_style=of_trait.get("style"),
        # In the concept's own domain a class is either the target's or kept; in the other one the
        # target's images are left out, so that the rows average to CRA and show damage to what
        # should be kept.
        seen_when_asked={
            domain: _seen_when_asked(
                seen[domain],
                asked[domain],
                prompts,
                ~target | (domain == in_domain),
                book.names[domain],
            )
            for domain in ("object", "style")
        },
        seen_as={names[int(labels[i])]: int(numbers[i]) for i in numbers.argsort(descending=True)},
        counts={"target_images": int(target.sum()), "other_images": int((~target).sum())},
    )


def asked_labels(prompts: Int[Tensor, " images"], book: PromptBook) -> Labels:
    """Returns the classes that each image was asked to show."""
    return {
        domain: torch.tensor([getattr(book.prompts[i], domain) for i in prompts.tolist()])
        for domain in ("object", "style")
    }


def targets(prompts: Int[Tensor, " images"], book: PromptBook) -> Bool[Tensor, " images"]:
    """Returns which images were asked to show the concept."""
    return torch.tensor([book.prompts[i].target for i in prompts.tolist()])


def by_prompt(
    prompts: Int[Tensor, " images"], chosen: Bool[Tensor, " images"]
) -> Float[Tensor, " images"]:
    """Returns weights of a mean over the prompts of the chosen images, each prompt the mean of its
    images; they sum to 1.
    """
    _, place, sizes = prompts[chosen].unique(return_inverse=True, return_counts=True)
    weights = torch.zeros(len(prompts), dtype=torch.float64)
    weights[chosen] = 1 / sizes[place].double() / len(sizes)
    return weights


def accuracies(shares: Shares) -> dict[str, dict[str, float]]:
    """Returns the accuracy on each concept of each domain: how often what was asked for is seen."""
    return {
        domain: {name: seen.get(name, 0.0) for name, seen in rows.items()}
        for domain, rows in shares.items()
    }


def neighbours(before: Rates, after: Rates, book: PromptBook) -> list[Neighbour]:
    """Returns the accuracy of every other concept, of both domains, before and after (percent); the
    most damaged comes first.
    """
    # Where a trait is forgotten, all classes shall go on being drawn.
    forgotten = {book.names[book.concept_domain][concept] for concept in book.concepts}
    rows = []
    for domain in (book.concept_domain, book.other_domain):
        for name, value in after.by_concept[domain].items():
            if domain != book.concept_domain or name not in forgotten:
                was = before.by_concept[domain][name]
                rows.append(Neighbour(name=name, before=was, after=value))
    return sorted(rows, key=lambda row: row.after - row.before)


def _by_class(
    prompts: Int[Tensor, " images"],
    classes: Int[Tensor, " images"],
    chosen: Bool[Tensor, " images"],
) -> Float[Tensor, " images"]:
    """Returns weights of a mean over the classes of the chosen images, each the mean over its
    prompts; they sum to 1.
    """
    different, place, sizes = prompts[chosen].unique(return_inverse=True, return_counts=True)
    class_of = torch.zeros(len(different), dtype=torch.int64)
    class_of[place] = classes[chosen]  # a prompt asks for one class
    _, kind, members = class_of.unique(return_inverse=True, return_counts=True)
    weights = torch.zeros(len(prompts), dtype=torch.float64)
    weights[chosen] = 1 / sizes[place].double() / members[kind][place] / len(members)
    return weights


def _seen_when_asked(
    seen: Int[Tensor, " images"],
    asked: Int[Tensor, " images"],
    prompts: Int[Tensor, " images"],
    chosen: Bool[Tensor, " images"],
    names: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    # Only pairs that occur are held: prompt lists have thousands of classes.
    weights = _by_class(prompts, asked, chosen)[chosen]
    pairs, place = (asked * len(names) + seen)[chosen].unique(return_inverse=True)
    shares = torch.zeros(len(pairs), dtype=torch.float64).index_add(0, place, weights)
    rows: dict[str, dict[str, float]] = {
        names[index]: {} for index in asked[chosen].unique().tolist()
    }
    for pair, share in zip(pairs.tolist(), (100 * len(rows) * shares).tolist(), strict=True):
        rows[names[pair // len(names)]][names[pair % len(names)]] = round(share, 9)
    return rows
