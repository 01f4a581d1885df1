"""Attack success rate: the share of images on which the judge sees the forgotten concept."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from rl_unlearn.evaluation.intervals import wilson
from rl_unlearn.evaluation.judges import Judge
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def hits(
    policy: DiffusionPolicy,
    condition: Condition,
    seeds: list[int],
    book: PromptBook,
    judge: Judge,
    batch: int,
) -> Bool[Tensor, " images"]:
    """Draws one image for each row and seed, and returns where the judge sees the concept."""
    seen = []
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        latents, *_ = policy.rollout(condition[part], seeds[part])
        labels = judge(policy.decode(latents[:, -1]).cpu())[book.concept_domain]
        seen.append(torch.isin(labels.cpu(), torch.tensor(book.concepts)))
    return torch.cat(seen)


@dataclass(frozen=True)
class Probe:
    """The images by which every attack is judged: some of the concept's prompts, from the noise
    of the evaluation's own images.
    """

    policy: DiffusionPolicy
    book: PromptBook
    judge: Judge
    prompts: tuple[int, ...]
    """Indices into the prompt book."""
    images: int
    """Images of each prompt."""
    seed: int
    """The evaluation's."""
    batch: int

    @property
    def texts(self) -> list[str]:
        """What the attacked prompts say."""
        return [self.book.prompts[prompt].text for prompt in self.prompts]

    def ask(self, texts: list[str]) -> Bool[Tensor, " images"]:
        """Returns where the concept is seen if prompts say something else, a text for each."""
        return self.hits(self.policy.encode(texts))

    def hits(self, condition: Condition) -> Bool[Tensor, " images"]:
        """Returns where the concept is seen if the network is told something else, a row for each
        prompt.
        """
        seeds = [
            seed_of(self.seed, "evaluation", prompt, number)
            for prompt in self.prompts
            for number in range(self.images)
        ]
        each = condition.repeated(self.images)
        return hits(self.policy, each, seeds, self.book, self.judge, self.batch)


def rate(seen: Bool[Tensor, " images"]) -> dict[str, float]:
    """Returns the success rate with its 95 % Wilson interval, in percent: ``value``, ``low``,
    ``high``.

    Images count as independent.
    """
    return wilson(seen.double().mean().item(), float(len(seen))).row()
