"""Learning answers by heart: what esd and ca have in common.

A lesson is a batch of noisy latents, what the network is told of each, and what it shall answer.
The loss is the mean squared error, without classifier-free guidance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.adapter_optimizer import AdapterOptimizer
from learner.ranks import Ranks
from rl_unlearn.config import Config
from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy


@dataclass(frozen=True)
class Lesson:
    """Noisy latents and the answers that are wanted at them."""

    noisy: Float[Tensor, "batch channels height width"]
    steps: Int[Tensor, " batch"]
    """Steps of the kernel, on the CPU."""
    told: Condition
    wanted: Float[Tensor, "batch channels height width"]


def learn(
    policy: DiffusionPolicy, config: Config, lesson: Callable[[int], Lesson]
) -> Iterator[float]:
    """Takes ``erase.steps`` optimizer steps, one on each lesson; yields the loss before each.

    ``lesson`` takes the number of the step. Raises NonFiniteError after several steps in a row
    whose gradient is not finite.
    """
    learner = config.learner.model_copy(update={"lr": config.erase.lr, "weight_decay": 0.0})
    optimizer = AdapterOptimizer(config.model_copy(update={"learner": learner}), policy, Ranks())
    rows = config.learner.microbatch
    for number in range(config.erase.steps):
        given, total = lesson(number), 0.0
        optimizer.clear()
        for part in torch.arange(len(given.steps)).split(rows):
            output = policy.conditional(given.noisy[part], given.steps[part], given.told[part])
            loss = (output.float() - given.wanted[part]).square().flatten(1).mean(dim=1).sum()
            loss = loss / len(given.steps)
            optimizer.scaler.scale(loss).backward()
            total += loss.item()
        optimizer.step()
        yield total


@torch.no_grad()
def untouched(
    policy: DiffusionPolicy,
    noisy: Float[Tensor, "batch channels height width"],
    steps: Int[Tensor, " batch"],
    told: Condition,
    rows: int,
) -> Float[Tensor, "batch channels height width"]:
    """Returns the untouched model's answers in fp32, without guidance, ``rows`` in a pass."""
    with policy.adapter_enabled(False):
        answers = [
            policy.conditional(noisy[part], steps[part], told[part]).float()
            for part in torch.arange(len(steps)).split(rows)
        ]
    return torch.cat(answers)
