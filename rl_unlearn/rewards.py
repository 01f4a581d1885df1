"""The reward of a final image: a weighted sum of outcomes, each a pure function of the reward CLIP's evidence."""

import difflib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.config import Reward
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook

Evidence = dict[str, Float[Tensor, "batch classes"]]


def log_odds(
    log_probs: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"], bound: float
) -> Float[Tensor, " batch"]:
    """``log p - log(1 - p)`` of one class in each row, in nats, clipped to +-bound.

    A log-odds keeps its slope where the probability saturates; plain cosine similarity hardly separates concepts.
    """
    own = log_probs.gather(1, classes[:, None]).squeeze(1)
    rest = log_probs.scatter(1, classes[:, None], float("-inf")).logsumexp(dim=1)
    return (own - rest).clamp(-bound, bound)


def outcomes(evidence: Evidence, book: PromptBook, bound: float) -> Float[Tensor, "batch outcomes"]:
    """What rewards are made of, for every image and whatever was asked; the reward is linear in them (reward_weights).

    Columns, in nats, clipped to +-bound: negative log-odds of the concept against its domain (forget); log-probability
    of the likeliest other class of that domain (presence: an empty picture is no answer); then the log-probabilities of
    all classes, of the concept's domain and of the other one.
    """
    own, other = evidence[book.concept_domain], evidence[book.other_domain]
    concept = torch.full((len(own),), book.concept_index, device=own.device)
    forget = -log_odds(own, concept, bound)
    instead = own.scatter(1, concept[:, None], float("-inf")).max(dim=1).values.clamp(-bound, 0)
    return torch.cat([forget[:, None], instead[:, None], own.clamp(-bound, 0), other.clamp(-bound, 0)], dim=1)


def anchor_class(book: PromptBook, config: Reward, classes: Float[Tensor, "classes features"]) -> int | None:
    """Which class of the concept's domain shall stand in its place: the first possible of ``config.anchor``; None: any.

    ``classes``: the reward CLIP's normalised text embeddings of that domain. Raises ConfigError for an anchor that this
    world does not know, or if none is another class of the concept's domain.
    """
    known, own = {name for names in book.names.values() for name in names}, book.names[book.concept_domain]
    for name in config.anchor:
        if name not in known | {"any", "nearest"}:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name a class, `nearest` or `any`"
            raise ConfigError(f"reward.anchor {name!r} is unknown to this world: {hint}")
    for name in config.anchor:
        if name == "any":
            return None
        if name == "nearest":
            similarity = classes @ classes[book.concept_index]
            similarity[book.concept_index] = float("-inf")
            return int(similarity.argmax())
        if name in own and own.index(name) != book.concept_index:
            return own.index(name)
    raise ConfigError(
        f"reward.anchor {list(config.anchor)} names no other {book.concept_domain} than the concept: "
        "add one, or `nearest`"
    )


def reward_weights(book: PromptBook, config: Reward, anchor: int | None) -> Float[Tensor, "prompts outcomes"]:
    """Weight of each outcome in the reward of each prompt's images: ``reward = outcomes . weights[prompt]``.

    Target prompts: forget, presence of the anchor (of any other class if there is none), and coherence on the rest of
    the prompt (its style, or its object). Retained ones: retain on both things asked for.
    """
    own = len(book.names[book.concept_domain])
    weights = torch.zeros(len(book.prompts), 2 + own + len(book.names[book.other_domain]))
    presence = 1 if anchor is None else 2 + anchor
    for row, prompt in zip(weights, book.prompts, strict=True):
        asked, rest = 2 + getattr(prompt, book.concept_domain), 2 + own + getattr(prompt, book.other_domain)
        if prompt.target:
            row[0], row[presence], row[rest] = config.forget, config.presence, config.coherence
        else:
            row[asked] = row[rest] = config.retain
    return weights


def concept_probability(
    evidence: Evidence, prompts: Int[Tensor, " batch"], book: PromptBook
) -> Float[Tensor, " batch"]:
    """Probability of the concept on target prompts, of the asked class of the same domain on retain prompts."""
    asked = [getattr(book.prompts[i], book.concept_domain) for i in prompts.tolist()]
    return evidence[book.concept_domain].exp().gather(1, torch.tensor(asked, device=prompts.device)[:, None]).squeeze(1)
