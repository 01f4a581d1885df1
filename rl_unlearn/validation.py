"""What the selection CLIP sees of a policy, on fixed prompts and noise."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import Evidence

# A judge is a stricter eye than CLIP's first choice: an image counts as forgotten when hardly a
# trace is left.
MAX_TRACE = 0.1


@dataclass(frozen=True)
class Validation:
    """Shares of images; produced by a rollout actor for the loop, which selects by it."""

    forgotten: float
    """Target prompts on whose image the concept's probability is below one in ten."""
    retained: float
    """Retained prompts whose image is seen as asked, in the concept's domain."""
    coherence: float
    """Target prompts whose image shows the rest of the prompt (its style, or its object; where a
    trait is to be forgotten, both)."""
    other: float
    """Retained prompts whose image shows the rest of the prompt."""
    presence: float
    """Target prompts on whose image another class of the concept's domain is more probable than
    not; where a trait is to be forgotten, the class asked for."""
    trace: float
    """Mean probability of the concept on target prompts."""
    rewarded: float
    """Retained prompts whose image the reward CLIP sees as asked, in the concept's domain. Plays no
    part in the score."""

    @property
    def score(self) -> float:
        """What selection maximises: the mean of the first four; presence counts a fifth of one,
        trace breaks ties.
        """
        four = self.forgotten + self.retained + self.coherence + self.other
        return four / 4 + 0.05 * self.presence - 0.01 * self.trace


@dataclass(frozen=True)
class Sightings:
    """What the two CLIPs see on some images, a row each; on the CPU."""

    trace: Float[Tensor, " images"]
    """Probability of the concepts, or of the trait."""
    rival: Float[Tensor, " images"]
    """Probability of the likeliest other class of their domain; with a trait, of the class asked
    for."""
    as_asked: Bool[Tensor, " images"]
    """Whether the class asked for, in the concepts' domain, is the likeliest."""
    rest_as_asked: Bool[Tensor, " images"]
    """Whether the class asked for in the other domain is the likeliest; with a trait, on target
    prompts, in both domains."""
    rewarded: Bool[Tensor, " images"]
    """Whether the reward CLIP sees what ``as_asked`` is about."""


def sight(
    book: PromptBook,
    prompts: tuple[int, ...],
    selection: Evidence,
    reward: Evidence,
    shown: Float[Tensor, " images"] | None = None,
) -> Sightings:
    """Reads both CLIPs' evidence on the images of these prompts, indices into the book.

    ``shown``: how surely they have the trait that is to be forgotten, if it is one.
    """
    domain, rest = book.concept_domain, book.other_domain
    others = [c for c in range(len(book.names[domain])) if c not in book.concepts]
    asked = torch.tensor([getattr(book.prompts[i], domain) for i in prompts])
    rest_asked = torch.tensor([getattr(book.prompts[i], rest) for i in prompts])
    seen = selection[domain]
    as_asked = seen.argmax(dim=1).cpu() == asked
    rest_as_asked = selection[rest].argmax(dim=1).cpu() == rest_asked
    rewarded = reward[domain].argmax(dim=1).cpu() == asked
    if shown is not None:
        target = torch.tensor([book.prompts[i].target for i in prompts])
        wanted = seen.exp().cpu().gather(1, asked[:, None]).squeeze(1)
        both = rest_as_asked & (as_asked | ~target)
        return Sightings(shown, wanted, as_asked, both, rewarded)
    return Sightings(
        # Any of the concepts is a trace: a cat that becomes a dog is not forgotten where dogs shall
        # be, too.
        trace=seen[:, list(book.concepts)].exp().sum(dim=1).cpu(),
        rival=seen[:, others].exp().max(dim=1).values.cpu(),
        as_asked=as_asked,
        rest_as_asked=rest_as_asked,
        rewarded=rewarded,
    )


def summary(book: PromptBook, prompts: tuple[int, ...], batches: list[Sightings]) -> Validation:
    """Summarises what was seen on the images of these prompts, batch by batch."""
    seen = Sightings(
        *(torch.cat([getattr(batch, f.name) for batch in batches]) for f in fields(Sightings))
    )
    target = torch.tensor([book.prompts[i].target for i in prompts])
    gone = torch.tensor([book.prompts[i].gone for i in prompts])
    watched = ~target & ~gone

    def share(marks: Bool[Tensor, " images"]) -> float:
        return marks.float().mean().item()

    return Validation(
        forgotten=share(seen.trace[target] < MAX_TRACE),
        retained=share(seen.as_asked[watched]),
        coherence=share(seen.rest_as_asked[target & ~gone]),
        other=share(seen.rest_as_asked[watched]),
        presence=share(seen.rival[target] > 0.5),
        trace=seen.trace[target].mean().item(),
        rewarded=share(seen.rewarded[watched]),
    )
