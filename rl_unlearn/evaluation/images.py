"""The images an evaluation asks for, and what a judge and a CLIP make of them.

The same prompts and the same noise for every model: `plan` names them, the images may be drawn
anywhere, `examine` looks at them as they would be stored, with 8 bits a channel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rl_unlearn import traits
from rl_unlearn.anchors import Anchors
from rl_unlearn.clip.zeroshot import ZeroShot
from rl_unlearn.config import Config
from rl_unlearn.evaluation.judges import ProbabilityJudge
from rl_unlearn.evaluation.metrics import Labels
from rl_unlearn.image_rewards import ImageReward
from rl_unlearn.noise import seed_of
from rl_unlearn.prompts import PromptBook

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Plan:
    """Which images are drawn: prompt, number and noise seed of each, in order."""

    prompts: tuple[int, ...]
    """Indices into the prompt book."""
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    """Noise seeds of :func:`rl_unlearn.noise.trajectory_noise`."""
    numbers: tuple[int, ...]
    """Which images of a prompt there are, 0 to the most any prompt has."""


def plan(book: PromptBook, config: Config) -> Plan:
    """Returns every prompt of the book with its images.

    The noise depends on evaluation.seed, the prompt and the number alone, not on the run, so that
    runs of different seeds are compared on the same noise.
    """
    images = [
        (index, number)
        for index, prompt in enumerate(book.prompts)
        for number in range(config.evaluation.each(prompt.target))
    ]
    return _planned(book, config, images)


def plan_of_anchors(book: PromptBook, config: Config, anchors: Anchors) -> Plan:
    """Returns the images of what shall stand in the concept's place: as many of each anchor's
    prompt as the concept's prompts have, with the noise that :func:`plan` gives that prompt.
    """
    each, asked = config.evaluation.each(target=True), dict.fromkeys(anchors.prompts.values())
    return _planned(book, config, [(index, number) for index in asked for number in range(each)])


def _planned(book: PromptBook, config: Config, images: list[tuple[int, int]]) -> Plan:
    seed = config.evaluation.seed
    return Plan(
        prompts=tuple(index for index, _ in images),
        texts=tuple(book.prompts[index].text for index, _ in images),
        seeds=tuple(seed_of(seed, "evaluation", index, number) for index, number in images),
        numbers=tuple(range(1 + max((number for _, number in images), default=-1))),
    )


@dataclass(frozen=True)
class Seen:
    """One model's images as judge and CLIP see them, in the plan's order, on the CPU."""

    labels: Labels
    """The judge's class in each domain."""
    sure: dict[str, Float[Tensor, " images"]]
    """The judge's probability of that class, 0 to 1."""
    log_probs: dict[str, Float[Tensor, "images classes"]]
    """The judge's log-probabilities of all classes."""
    features: Float[Tensor, "images features"]
    """The judge's features."""
    embeddings: Float[Tensor, "images embedding"]
    """CLIP image features of length 1."""
    clip_scores: Float[Tensor, " images"]
    """100 times the cosine of image and prompt, not below 0 (CLIPScore without its factor of 2.5,
    arXiv 2104.08718)."""
    shown: Bool[Tensor, " images"] | None = None
    """Where the trait is, by what judges it; None unless a trait is to be forgotten."""


@torch.no_grad()
def examine(
    images: Iterable[UInt8[Tensor, "_ 3 height width"]],
    texts: tuple[str, ...],
    judge: ProbabilityJudge,
    clip: ZeroShot,
    trait: ImageReward | None = None,
) -> Seen:
    """Lets judge and CLIP look at the images of ``texts``, which come in batches of any size, in
    order, and what judges a trait, if one is to be forgotten.
    """
    different = list(dict.fromkeys(texts))
    parts = [different[i : i + _TEXTS_AT_ONCE] for i in range(0, len(different), _TEXTS_AT_ONCE)]
    words = torch.cat([clip.embed_texts(part).cpu() for part in parts])
    place = {text: row for row, text in enumerate(different)}
    evidence, embeddings, shown = [], [], []
    for batch in images:
        pixels = batch.float() / 255
        evidence.append(judge.classify(pixels))
        embeddings.append(clip.embed(pixels).float().cpu())
        if trait is not None:
            shown.append(traits.sight(trait, "evaluation.image_judge", pixels) > 0.5)
    embedded = torch.cat(embeddings)
    cosines = (embedded * words[torch.tensor([place[text] for text in texts])]).sum(dim=1)
    log_probs = {
        domain: torch.cat([e.log_probs[domain] for e in evidence]) for domain in ("object", "style")
    }
    best = {domain: found.max(dim=1) for domain, found in log_probs.items()}
    return Seen(
        labels={domain: top.indices for domain, top in best.items()},
        sure={domain: top.values.exp() for domain, top in best.items()},
        log_probs=log_probs,
        features=torch.cat([e.features for e in evidence]),
        embeddings=embedded,
        clip_scores=100 * cosines.clamp(min=0),
        shown=torch.cat(shown) if shown else None,
    )
