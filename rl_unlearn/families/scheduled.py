"""Latents by a scheduler of diffusers, as its pipelines draw them: what a program draws that loads
the adapter, and knows nothing of the kernel that it was trained with.
"""

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.families import variance_preserving
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.layouts.schedulers import Scheduler
from rl_unlearn.noise import generator

Latents = Float[Tensor, "batch channels height width"]
Answer = Callable[[Latents, Timesteps], Latents]
"""What the network says of latents at timesteps, after guidance."""


def make(scheduler: Scheduler, family: Family, steps: int, device: torch.device) -> Any:
    """Returns a scheduler of diffusers, set to its steps for one batch: it counts them.

    One of variance-preserving noise has the configuration of the model's own and spaces its steps
    by that. One of flow matching has the levels that the kernel of as many steps has.
    """
    kind, own = getattr(diffusers, scheduler.kind), family.pipeline.scheduler
    if family.process is variance_preserving:
        made = kind.from_config(own.config, **scheduler.settings)
        made.set_timesteps(steps, device=device)
        return made
    kernel = family.process.kernel(own, steps, 1.0, family.latent_shape)
    made = kind(**scheduler.settings)
    if kind is diffusers.FlowMatchEulerDiscreteScheduler:
        made.set_timesteps(sigmas=kernel.noise.tolist(), device=device)
        return made
    # It takes no levels, and its own know nothing of a shift by tokens or steps.
    made.set_timesteps(steps, device=device)
    made.sigmas = torch.cat([kernel.noise, kernel.noise_next[-1:]]).float()
    made.timesteps = kernel.timesteps.to(device)
    return made


@torch.no_grad()
def denoise(scheduler: Any, noise: Latents, seeds: list[int], answer: Answer) -> Latents:
    """Returns the final latents that a fresh scheduler leads to from unit noise, in fp32.

    What noise it adds on the way is named by the seeds, a row each.
    """
    latents = noise.float() * getattr(scheduler, "init_noise_sigma", 1.0)
    scaled = getattr(scheduler, "scale_model_input", lambda state, _: state)
    draws: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        draws = {"generator": [generator("scheduler", seed) for seed in seeds]}
    for timestep in scheduler.timesteps:
        output = answer(scaled(latents, timestep), timestep.expand(len(latents)))
        latents = scheduler.step(output.float(), timestep, latents, **draws).prev_sample
    return latents
