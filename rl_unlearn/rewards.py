"""The reward of a final image: named parts with weights, each a pure function of the reward CLIP's evidence."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.config import Reward
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


def log_probability(
    log_probs: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"], bound: float
) -> Float[Tensor, " batch"]:
    """log p of one class in each row, in nats, clipped to [-bound, 0]."""
    return log_probs.gather(1, classes[:, None]).squeeze(1).clamp(-bound, 0)


def reward_parts(
    evidence: Evidence, prompts: Int[Tensor, " batch"], book: PromptBook, config: Reward
) -> dict[str, Float[Tensor, " batch"]]:
    """The unweighted parts of each image's reward; a part that does not apply to a prompt is 0 there.

    forget: negative log-odds of the concept against its domain (target prompts); coherence: log-probability of the rest
    of the prompt (target prompts); presence: log-probability of the likeliest other class of the concept's domain, for
    an empty picture is no answer either (target prompts); retain: log-probabilities of object and style asked for
    (retain prompts).
    """
    asked = [book.prompts[i] for i in prompts.tolist()]
    device = prompts.device
    target = torch.tensor([p.target for p in asked], device=device)
    wanted = {
        "object": torch.tensor([p.object for p in asked], device=device),
        "style": torch.tensor([p.style for p in asked], device=device),
    }
    own, other = book.concept_domain, book.other_domain
    concept = torch.full_like(prompts, book.concept_index)
    forget = -log_odds(evidence[own], concept, config.bound)
    rest = log_probability(evidence[other], wanted[other], config.bound)
    kept = rest + log_probability(evidence[own], wanted[own], config.bound)
    instead = evidence[own].scatter(1, concept[:, None], float("-inf")).max(dim=1).values.clamp(-config.bound, 0)
    zero = torch.zeros_like(rest)
    return {
        "presence": torch.where(target, instead, zero),
        "forget": torch.where(target, forget, zero),
        "coherence": torch.where(target, rest, zero),
        "retain": torch.where(target, zero, kept),
    }


def total_reward(parts: dict[str, Float[Tensor, " batch"]], config: Reward) -> Float[Tensor, " batch"]:
    """The weighted sum of the parts."""
    return sum((getattr(config, name) * part for name, part in parts.items()), torch.zeros(()))


def concept_probability(
    evidence: Evidence, prompts: Int[Tensor, " batch"], book: PromptBook
) -> Float[Tensor, " batch"]:
    """Probability of the concept on target prompts, of the asked class of the same domain on retain prompts."""
    asked = [getattr(book.prompts[i], book.concept_domain) for i in prompts.tolist()]
    return evidence[book.concept_domain].exp().gather(1, torch.tensor(asked, device=prompts.device)[:, None]).squeeze(1)
