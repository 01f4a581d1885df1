"""What the loop asks of rollout actors, and what the selection CLIP sees of a policy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What to draw.

    Produced by the loop, consumed by a rollout actor; equal requests and weights give equal bits.
    """

    round: int
    prompts: tuple[int, ...]
    """Indices into the prompt book."""
    offset: int
    """Position of the first image in its round: names the noise, so that chunks of a round
    differ."""


@dataclass(frozen=True)
class Validation:
    """What the selection CLIP sees of a policy, shares of images.

    Produced by a rollout actor for the loop.
    """

    forgotten: float
    """Target prompts on whose image the concept's probability is below one in ten."""
    retained: float
    """Retained prompts whose image is seen as asked, in the concept's domain."""
    coherence: float
    """Target prompts whose image shows the rest of the prompt (its style, or its object)."""
    other: float
    """Retained prompts whose image shows the rest of the prompt."""
    presence: float
    """Target prompts on whose image another class of the concept's domain is more probable than
    not."""
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
