"""Images of the untouched model that esd and ca learn from, with noise of their own."""

import torch

from rl_unlearn.attacks.references import References
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import seed_of
from rl_unlearn.policy import DiffusionPolicy


@torch.no_grad()
def draw(
    policy: DiffusionPolicy, told: Condition, prompts: list[int], count: int, seed: int, batch: int
) -> References:
    """Draws ``count`` images by the untouched model, of these prompts in turn; ``told`` has a row
    for each prompt of the book.
    """
    asked = [prompts[i % len(prompts)] for i in range(count)]
    seeds = [seed_of(seed, "erase", prompt, i) for i, prompt in enumerate(asked)]
    final = []
    with policy.adapter_enabled(False):
        for part in range(0, count, batch):
            rows = torch.tensor(asked[part : part + batch])
            final.append(policy.rollout(told[rows], seeds[part : part + batch])[0][:, -1].float())
    return References(torch.cat(final), asked)
