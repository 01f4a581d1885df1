"""The reward of a final image: a weighted sum of outcomes, each a pure function of the reward
CLIP's evidence.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.config import Reward
from rl_unlearn.prompts import NEAREST, PromptBook

Evidence = dict[str, Float[Tensor, "batch classes"]]
DOMAINS = ("object", "style")
KINDS = ("log-odds", "log-prob")


def log_odds(
    log_probs: Float[Tensor, "batch classes"], bound: float
) -> Float[Tensor, "batch classes"]:
    """``log p - log(1 - p)`` of every class, in nats, clipped to +-bound.

    A log-odds keeps its slope where the probability saturates; plain cosine similarity hardly
    separates concepts.
    """
    # 1 - p is exact for all but the likeliest class, whose rest is summed: a prompt list may have
    # thousands of classes.
    top = log_probs.argmax(dim=1, keepdim=True)
    others = log_probs.scatter(1, top, float("-inf")).logsumexp(dim=1, keepdim=True)
    rest = (-log_probs.exp()).log1p().scatter(1, top, others)
    return (log_probs - rest).clamp(-bound, bound)


def outcome_names(book: PromptBook, config: Reward) -> tuple[str, ...]:
    """Names of the columns of :func:`outcomes`, in order: `log-odds object cat`, ..., `image
    jpeg_kilobytes`.
    """
    kinds = [
        f"{kind} {domain} {name}"
        for domain in DOMAINS
        for kind in KINDS
        for name in book.names[domain]
    ]
    trait = () if book.trait is None else (f"log-odds image {book.trait}",)
    return (*kinds, *(f"image {name}" for name in config.images), *trait)


def outcomes(
    evidence: Evidence, bound: float, images: Float[Tensor, "batch rewards"] | None = None
) -> Float[Tensor, "batch outcomes"]:
    """Returns what rewards are made of, for every image, whatever was asked and whatever shall be
    forgotten.

    For objects, then for styles: log-odds of all classes, log-probabilities of all classes, in
    nats, clipped to +-bound; then ``images``, the rewards that see nothing but the image, and the
    log-odds of a trait. The reward is linear in them (reward_weights).
    """
    parts = []
    for domain in DOMAINS:
        parts += [log_odds(evidence[domain], bound), evidence[domain].clamp(-bound, 0)]
    return torch.cat([part.cpu() for part in parts] + ([] if images is None else [images]), dim=1)


def anchor_classes(
    book: PromptBook, classes: Callable[[], Float[Tensor, "classes features"]]
) -> tuple[int, ...]:
    """Returns, for each concept, the class of its domain that shall stand in its place: the first
    possible of ``book.anchors``.

    ``classes`` returns the reward CLIP's normalised text embeddings of that domain; it is asked
    where the nearest class is wanted. The book has checked that there is one.
    """
    if not book.concepts:
        return ()
    domain, concepts, lost = (
        book.names[book.concept_domain],
        list(book.concepts),
        {*book.concepts, *book.gone},
    )
    for name in book.anchors:
        if name == NEAREST and len(lost) < len(domain):
            texts = classes()
            similarity = texts @ texts[concepts].T
            similarity[list(lost)] = float("-inf")
            return tuple(similarity.argmax(dim=0).tolist())
        if name in domain and domain.index(name) not in lost:
            return (domain.index(name),) * len(concepts)
    raise AssertionError(f"no class of {domain} can stand in the concepts' place")


def reward_weights(
    book: PromptBook, config: Reward, anchors: tuple[int, ...]
) -> Float[Tensor, "prompts outcomes"]:
    """Weight of each outcome in the reward of each prompt's images: ``reward = outcomes .
    weights[prompt]``.

    Target prompts: forget (negative log-odds of the concept), presence of its anchor, and coherence
    on the rest of the prompt (its style, or its object), log-probabilities both. Retained ones:
    retain on both things asked for. What an earlier adapter forgot is not asked back by either. All
    of them: the rewards that see nothing but the image. Where a trait is to be forgotten, target
    prompts have its negative log-odds, and retain on both things asked for: nothing but the trait
    should change.
    """
    column = {name: place for place, name in enumerate(outcome_names(book, config))}
    domain, other = book.concept_domain, book.other_domain
    weights = torch.zeros(len(book.prompts), len(column))
    for row, prompt in zip(weights, book.prompts, strict=True):
        asked = getattr(prompt, domain)
        name, rest = book.names[domain][asked], book.names[other][getattr(prompt, other)]
        if prompt.target and book.trait is not None:
            row[column[f"log-odds image {book.trait}"]] = -config.forget
        if prompt.target and book.trait is None:
            anchor = book.names[domain][anchors[book.concepts.index(asked)]]
            row[column[f"log-odds {domain} {name}"]] = -config.forget
            row[column[f"log-prob {domain} {anchor}"]] = config.presence
            row[column[f"log-prob {other} {rest}"]] = 0.0 if prompt.gone else config.coherence
        elif not prompt.gone:
            row[column[f"log-prob {domain} {name}"]] = row[column[f"log-prob {other} {rest}"]] = (
                config.retain
            )
        for image, weight in config.images.items():
            row[column[f"image {image}"]] = weight
    return weights


def concept_probability(
    evidence: Evidence,
    prompts: Int[Tensor, " batch"],
    book: PromptBook,
    seen: Float[Tensor, "batch outcomes"],
) -> Float[Tensor, " batch"]:
    """Probability of the concept on target prompts, of the asked class of the same domain on retain
    prompts.

    ``seen``: the outcomes, of which a trait is the last one.
    """
    asked = [getattr(book.prompts[i], book.concept_domain) for i in prompts.tolist()]
    probability = (
        evidence[book.concept_domain]
        .exp()
        .gather(1, torch.tensor(asked, device=prompts.device)[:, None])
        .squeeze(1)
    )
    if book.trait is None:
        return probability
    target = torch.tensor([book.prompts[i].target for i in prompts.tolist()])
    return torch.where(target, seen[:, -1].sigmoid(), probability.cpu())
