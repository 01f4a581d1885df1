"""What the parts of the loop share: configuration, actors, timeline, and how far the run is."""

import time
from dataclasses import dataclass, field

from learner.calls import Calls
from learner.events import Emit
from learner.roles import Actors, CheckpointStore, Ref
from learner.timeline import Timeline
from rl_unlearn.config import Config
from rl_unlearn.messages import Weights
from rl_unlearn.prompts import PromptBook


@dataclass
class Session:
    """One run from this process's point of view."""

    config: Config
    actors: Actors
    emit: Emit
    store: CheckpointStore | None
    timeline: Timeline
    book: PromptBook = field(init=False)
    calls: Calls = field(init=False)
    validated: tuple[int, ...] = field(init=False)
    """The prompts that the selection CLIP judges policy versions by."""
    validation_batch: int = field(init=False)
    """How many of them are a call's."""
    started: float = field(init=False)
    """On the monotonic clock; of a resumed run it is earlier by its former sittings."""

    def __post_init__(self) -> None:
        self.book = PromptBook.from_config(self.config)
        self.calls = Calls(self.actors, self.config.loop.timeout)
        images, seed = self.config.selection.images, self.config.seed
        self.validated = tuple(self.book.draw(seed, 0, images, 0.5, self.book.watched))
        half = max(1, self.config.rollout.batch // 2)
        self.validation_batch = self.config.selection.batch or half
        self.started = time.monotonic()

    @property
    def begins_untouched(self) -> bool:
        """Whether policy version 0 is the untouched model, and no other run's adapter."""
        return self.config.lora.start is None

    @property
    def seconds(self) -> float:
        """Time that the run has taken."""
        return time.monotonic() - self.started

    def images(self, round: int, rounds_passed: int, final: bool = False) -> int:
        """Images of the warm-up, the rounds so far and their validations.

        Images drawn ahead count in their own round, but in asynchronous mode, where rounds belong
        to no update: there ``rounds_passed`` counts. ``final``: the last validation, too.
        """
        config = self.config
        rounds = round if config.loop.mode == "sync" else max(round, rounds_passed)
        validations = 1 + (rounds - 1) // config.selection.every + final
        validations += not self.begins_untouched  # else the first round's is the untouched model's
        return (
            config.critic.warmup_images
            + rounds * config.rollout.images
            + validations * len(self.validated)
        )

    def draw_prompts(self, round: int) -> list[int]:
        """The prompts of a round, as indices into the prompt book."""
        config = self.config
        images, targets = config.rollout.images, config.prompts.target_fraction
        return self.book.draw(config.seed, round, images, targets)

    async def fetch(self, weights: Ref[Weights]) -> Weights:
        """The weights behind a reference; those of a checkpoint are there already."""
        if isinstance(weights, Weights):
            return weights
        return await self.calls.wait(weights, "learner")
