"""The denoising loss on reference images (Ho et al. 2020, arXiv 2006.11239, eq. 14): what every
attack lowers.

It is the unweighted squared error of what the network predicts (noise, or velocity: Salimans and Ho
2022, arXiv 2202.00512) at the noise levels that the sampler visits, without classifier-free
guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy


@dataclass(frozen=True)
class Draws:
    """Noisy references with what the network should answer, on the policy's device, fp32."""

    noisy: Float[Tensor, "draws channels height width"]
    steps: Int[Tensor, " draws"]
    """Steps of the kernel, on the CPU."""
    answers: Float[Tensor, "draws channels height width"]

    def __len__(self) -> int:
        return len(self.noisy)

    def __getitem__(self, rows: slice) -> "Draws":
        return Draws(self.noisy[rows], self.steps[rows], self.answers[rows])

    def repeated(self, times: int) -> "Draws":
        """Returns all rows, ``times`` over."""
        return Draws(
            self.noisy.repeat(times, 1, 1, 1),
            self.steps.repeat(times),
            self.answers.repeat(times, 1, 1, 1),
        )


def draw(
    policy: DiffusionPolicy,
    references: Float[Tensor, "draws channels height width"],
    source: torch.Generator,
) -> Draws:
    """Draws noise for each reference, at noise levels that are spread evenly over the sampler's."""
    count, steps = len(references), len(policy.kernel)
    # One step from each of `count` equal parts of the sampler, in random order: less scatter than
    # independent draws.
    parts = (
        (torch.randperm(count, generator=source) + torch.rand(count, generator=source))
        * steps
        / count
    )
    index = parts.long().clamp(max=steps - 1)
    noise = torch.randn(references.shape, generator=source).to(references)
    answers = policy.kernel.answer(references, noise, index)
    return Draws(policy.kernel.noisy(references, noise, index), index, answers)


def losses(policy: DiffusionPolicy, draws: Draws, condition: Condition) -> Float[Tensor, " draws"]:
    """Returns the mean squared error of each draw, in fp32."""
    output = policy.conditional(draws.noisy, draws.steps, condition)
    return (output.float() - draws.answers).square().flatten(1).mean(dim=1)


def descend(
    optimizer: torch.optim.Optimizer,
    policy: DiffusionPolicy,
    draws: Draws,
    embed: Callable[[slice], Condition],
    microbatch: int,
) -> Float[Tensor, " draws"]:
    """Takes one optimizer step on the mean loss, and returns the losses before it.

    ``embed`` gives the prompts of some rows. Gradients are made for the optimizer's parameters
    alone: nothing else gets one, whatever its requires_grad.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    total = [torch.zeros_like(p) for p in parameters]
    before = []
    for start in range(0, len(draws), microbatch):
        rows = slice(start, min(start + microbatch, len(draws)))
        loss = losses(policy, draws[rows], embed(rows))
        for sum, gradient in zip(
            total, torch.autograd.grad(loss.sum() / len(draws), parameters), strict=True
        ):
            sum += gradient
        before.append(loss.detach())
    for parameter, gradient in zip(parameters, total, strict=True):
        parameter.grad = gradient
    optimizer.step()
    return torch.cat(before)
