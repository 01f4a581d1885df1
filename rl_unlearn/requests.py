"""What the loop asks of rollout actors, and what they see of a policy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What to draw. Produced by the loop, consumed by a rollout actor; equal requests and weights give equal bits."""

    round: int
    prompts: tuple[int, ...]
    """Indices into the prompt book."""
    offset: int
    """Position of the first image in its round: names the noise, so that chunks of a round differ."""


@dataclass(frozen=True)
class Look:
    """What the selection CLIP sees of a policy, means over images in [0, 1]. Produced by a rollout actor for the loop."""

    forgotten: float
    """1 - probability of the concept on target prompts."""
    retained: float
    """Probability of the asked class of the concept's domain on retained prompts."""
    coherence: float
    """Probability of the rest of the prompt (its style, or its object) on target prompts."""
    other: float
    """Probability of the rest of the prompt on retained prompts."""

    @property
    def score(self) -> float:
        """What selection maximises: the mean of the four."""
        return (self.forgotten + self.retained + self.coherence + self.other) / 4
