"""Attack success rate: the share of images on which the judge sees the forgotten concept."""

import torch
from jaxtyping import Bool
from torch import Tensor

from rl_unlearn.evaluation.judges import Judge
from rl_unlearn.evaluation.wilson import wilson
from rl_unlearn.families.condition import Condition
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
    """Draws one image for each row and seed, and says where the judge sees the concept."""
    seen = []
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        latents, *_ = policy.rollout(condition[part], seeds[part])
        labels = judge(policy.decode(latents[:, -1]).cpu())[book.concept_domain]
        seen.append(torch.isin(labels.cpu(), torch.tensor(book.concepts)))
    return torch.cat(seen)


def rate(seen: Bool[Tensor, " images"]) -> dict[str, float]:
    """Returns the success rate with its 95 % Wilson interval, in percent: ``value``, ``low``,
    ``high``.

    Images count as independent.
    """
    return wilson(seen.double().mean().item(), float(len(seen))).row()
