"""Erased Stable Diffusion: under the concept's prompt the network learns to answer as the untouched
one does when it is guided away from the concept (Gandikota et al. 2023, arXiv 2303.07345, eq. 7).

States are those of the trained model's own trajectories under the prompt, as in the paper; a lesson
takes all states of a few of them. Retained prompts, which the paper leaves out, have their answers
kept.
"""

from collections.abc import Iterator

import torch

from experiments.baselines import images
from experiments.baselines.lessons import Lesson, learn, untouched
from rl_unlearn.attacks.denoising import draw
from rl_unlearn.config import Config
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import generator, seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def drawn(config: Config, levels: int) -> int:
    """Returns how many images are drawn for it; ``levels``: steps of the kernel."""
    kept = config.erase.images if config.erase.kept else 0
    return kept + config.erase.steps * _trajectories(config, levels)


def _trajectories(config: Config, levels: int) -> int:
    return max(1, (config.erase.batch - config.erase.kept) // levels)


def erase(policy: DiffusionPolicy, config: Config, book: PromptBook) -> Iterator[float]:
    """Trains the policy's adapter; yields the loss of each step."""
    settings, microbatch = config.erase, config.learner.microbatch
    told = policy.encode([prompt.text for prompt in book.prompts])
    nothing = policy.encode([""])
    levels = len(policy.kernel)
    trajectories = _trajectories(config, levels)
    kept = None
    if settings.kept:
        kept = images.draw(
            policy, told, book.retained, settings.images, config.seed, config.rollout.batch
        )

    def lesson(number: int) -> Lesson:
        asked = [book.targets[i % len(book.targets)] for i in _next(number, trajectories)]
        seeds = [seed_of(config.seed, "erase", number, i) for i in range(trajectories)]
        prompt = told[torch.tensor(asked)]
        noisy = policy.rollout(prompt, seeds)[0][:, :-1].flatten(0, 1).float()
        steps, prompt = torch.arange(levels).repeat(trajectories), prompt.repeated(levels)
        concept = untouched(policy, noisy, steps, prompt, microbatch)
        free = untouched(policy, noisy, steps, nothing.expand(len(steps)), microbatch)
        away = Lesson(noisy, steps, prompt, free - settings.negative * (concept - free))
        if kept is None:
            return away
        source = generator(config.seed, "erase", "kept", number)
        rows = torch.randint(len(kept), (settings.kept,), generator=source)
        draws = draw(policy, kept.latents[rows], source)
        same = told[torch.tensor(kept.prompts)[rows]]
        answers = untouched(policy, draws.noisy, draws.steps, same, microbatch)
        return Lesson(
            torch.cat([away.noisy, draws.noisy]),
            torch.cat([away.steps, draws.steps]),
            Condition.cat([away.told, same]),
            torch.cat([away.wanted, answers]),
        )

    yield from learn(policy, config, lesson)


def _next(number: int, count: int) -> range:
    """Returns the numbers of this lesson's trajectories among those of all lessons."""
    return range(number * count, (number + 1) * count)
