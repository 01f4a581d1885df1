"""The default sampler of the canvas in plain diffusers calls, on latents: 10 steps of DDIM, eta 1,
guidance 1.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from experiments.canvas.autoencoder import decode
from experiments.canvas.denoiser import PROMPTS, Denoiser

STEPS, ETA, GUIDANCE = 10, 1.0, 1.0
NULL = len(PROMPTS) - 1


def predict(
    model: Denoiser, noisy: Tensor, step: Tensor | int, prompts: Tensor, guidance: float
) -> Tensor:
    """v at `step`, with classifier-free guidance towards the prompts (B,) where `guidance` is not
    1.
    """
    steps = torch.as_tensor(step).expand(len(noisy))
    predicted: Tensor
    if guidance == 1.0:
        predicted = model(noisy, steps, prompts)
        return predicted
    null = torch.full_like(prompts, NULL)
    predicted = model(noisy.repeat(2, 1, 1, 1), steps.repeat(2), torch.cat([null, prompts]))
    base, towards = predicted.chunk(2)
    return base + guidance * (towards - base)


@torch.no_grad()
def sample(
    model: Denoiser,
    scheduler: DDIMScheduler,
    prompts: Tensor,
    generator: torch.Generator,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    eta: float = ETA,
) -> tuple[Tensor, list[Tensor]]:
    """Final latents (B, 4, 8, 8) of unit deviation, and the prediction of them that each step
    made."""
    scheduler.set_timesteps(steps)
    latents = torch.randn(len(prompts), 4, 8, 8, generator=generator)
    predictions = []
    for step in scheduler.timesteps:
        v = predict(model, latents, step, prompts, guidance)
        out = scheduler.step(v, step, latents, eta=eta, generator=generator)
        latents = out.prev_sample
        predictions.append(out.pred_original_sample)
    return latents, predictions


def to_images(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents of unit deviation -> images (B, 3, 32, 32) in [0, 1]."""
    return decode(vae, latents / vae.config.scaling_factor)
