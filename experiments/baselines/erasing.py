"""One supervised erasure, with the outcome that a training has."""

import time
from collections.abc import Iterator, Mapping

from experiments.baselines import ca, esd, uce
from experiments.evaluation.models import load_model
from learner import events
from learner.events import Emit, Event
from learner.loop import Result
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.anchors import anchors_of
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

_TOLD = 10
"""Steps between two losses that are told."""


class Step(Event):
    """An optimizer step of a supervised eraser."""

    name = "erase"
    step: int
    steps: int
    loss: float


def erase(config: Config, emit: Emit) -> Result:
    """Erases by ``erase.method``, in this process; ``images`` are those that were drawn for it."""
    start = time.monotonic()
    emit(events.Phase(phase="starting actors"))
    policy = DiffusionPolicy(load_model(config.model), config)
    book = PromptBook.from_config(config)
    emit(events.Phase(phase=f"erasing by {config.erase.method}"))
    pairs = {} if config.erase.method == "esd" else anchored(config, book)
    if config.erase.method == "uce":
        state, lost = uce.erase(policy, config, book, pairs)
        if lost > 1e-6:
            emit(
                events.Warning(
                    message=f"{lost:.1%} of the edit has no room in lora.rank={config.lora.rank}: "
                    "a larger rank holds it"
                )
            )
        images = steps = 0
    else:
        for number, loss in enumerate(_losses(policy, config, book, pairs), start=1):
            if number % _TOLD == 0 or number == config.erase.steps:
                emit(Step(step=number, steps=config.erase.steps, loss=loss))
        state, steps, images = policy.adapter_state(), config.erase.steps, _drawn(policy, config)
    emit(events.Phase(phase="done"))
    seconds = time.monotonic() - start
    return Result(state, steps, digest(state), None, images, steps, seconds)


def _losses(
    policy: DiffusionPolicy, config: Config, book: PromptBook, pairs: Mapping[int, int]
) -> Iterator[float]:
    if config.erase.method == "ca":
        return ca.erase(policy, config, book, pairs)
    return esd.erase(policy, config, book)


def _drawn(policy: DiffusionPolicy, config: Config) -> int:
    if config.erase.method == "ca":
        return ca.drawn(config)
    return esd.drawn(config, len(policy.kernel))


def anchored(config: Config, book: PromptBook) -> dict[int, int]:
    """Returns the anchor's prompt for each target prompt; raises ConfigError if one has none."""
    found = anchors_of(config, book).prompts
    missing = [book.prompts[place].text for place in book.targets if place not in found]
    if missing:
        raise ConfigError(
            f"no prompt to keep asks for the anchor as {missing[0]!r} asks for the concept: choose "
            "another reward.anchor, or erase.method=esd, which needs none"
        )
    return found
