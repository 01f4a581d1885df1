"""What shall stand where the concept is asked for: each target prompt, and its anchor's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.clip.zeroshot import load_open_clip, text_features
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes
from rl_unlearn.trajectory import Trajectory


@dataclass(frozen=True)
class Anchors:
    """The anchors that the reward asks for."""

    classes: dict[int, int]
    """For each concept the class of its domain that shall stand in its place."""
    prompts: dict[int, int]
    """For each target prompt the prompt to keep that asks for the anchor and the same rest, as
    indices in the book; without those that no prompt of the book is like."""


def anchors_of(
    config: Config,
    book: PromptBook,
    texts: Callable[[], Float[Tensor, "classes features"]] | None = None,
) -> Anchors:
    """Returns them; loads the reward CLIP where it must say what is nearest, unless ``texts``
    returns its text embeddings of the concept's domain. A trait has none.
    """
    if book.trait is not None:
        return Anchors({}, {})

    def loaded() -> Float[Tensor, "classes features"]:
        clip, tokenizer = load_open_clip(config.reward.clip, "reward")
        return text_features(clip, tokenizer, book.phrases[book.concept_domain])

    classes = dict(zip(book.concepts, anchor_classes(book, texts or loaded), strict=True))
    domain, other = book.concept_domain, book.other_domain
    asking: dict[tuple[int, int], int] = {}
    for place in book.watched:
        prompt = book.prompts[place]
        asking.setdefault((getattr(prompt, domain), getattr(prompt, other)), place)
    alike = {
        place: asking.get((classes[getattr(prompt, domain)], getattr(prompt, other)))
        for place in book.targets
        if (prompt := book.prompts[place])
    }
    return Anchors(classes, {place: found for place, found in alike.items() if found is not None})


def of_anchors(
    drawn: Trajectory, anchors: Mapping[int, int]
) -> tuple[Trajectory, Int[Tensor, " rows"]]:
    """Returns the trajectories of anchors' prompts, and the target prompt each of them stands for:
    an image may stand for several. ``anchors``: :attr:`Anchors.prompts`.
    """
    pairs = [
        (row, target)
        for target, anchor in anchors.items()
        for row in (drawn.prompts == anchor).nonzero().flatten().tolist()
    ]
    rows, targets = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(dim=1)
    return drawn[rows], targets
