"""Concept Ablation, model-based: under the concept's prompt the network learns to answer as it does
under the anchor's (Kumari et al. 2023, arXiv 2303.13516, eq. 4).

States are noisy images of the anchor. Retained prompts take the place of the paper's prior
preservation, which keeps the anchor alone.
"""

from collections.abc import Iterator, Mapping

import torch

from experiments.baselines import images
from experiments.baselines.lessons import Lesson, learn, untouched
from rl_unlearn.attacks.denoising import draw
from rl_unlearn.config import Config
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def drawn(config: Config) -> int:
    """Returns how many images are drawn for it."""
    return 2 * config.erase.images


def erase(
    policy: DiffusionPolicy, config: Config, book: PromptBook, anchored: Mapping[int, int]
) -> Iterator[float]:
    """Trains the policy's adapter; yields the loss of each step."""
    settings, batch = config.erase, config.rollout.batch
    told = policy.encode([prompt.text for prompt in book.prompts])
    concepts = [*anchored] * -(-settings.images // len(anchored))
    anchors = [anchored[concept] for concept in concepts][: settings.images]
    of_anchor = images.draw(policy, told, anchors, settings.images, config.seed, batch)
    kept = images.draw(policy, told, book.retained, settings.images, config.seed, batch)
    everything = torch.cat([of_anchor.latents, kept.latents])
    answered = torch.tensor([*of_anchor.prompts, *kept.prompts])
    asked = torch.tensor([*concepts[: settings.images], *kept.prompts])

    def lesson(number: int) -> Lesson:
        source = generator(config.seed, "erase", number)
        rows = torch.randint(settings.images, (settings.batch,), generator=source)
        rows[: settings.kept] += settings.images
        draws = draw(policy, everything[rows], source)
        wanted = untouched(
            policy, draws.noisy, draws.steps, told[answered[rows]], config.learner.microbatch
        )
        return Lesson(draws.noisy, draws.steps, told[asked[rows]], wanted)

    yield from learn(policy, config, lesson)
