"""The kernel of models that were trained with variance-preserving noise: signal and noise are sine and cosine."""

import torch
from diffusers import DDIMScheduler

from rl_unlearn.errors import ConfigError
from rl_unlearn.kernel import Kernel


def kernel(scheduler: DDIMScheduler, steps: int, eta: float) -> Kernel:
    """The steps of a `diffusers.DDIMScheduler`.

    Raises ConfigError for an unknown prediction type, or an eta that is not positive.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    following = timesteps - scheduler.config.num_train_timesteps // steps
    cumulative = scheduler.alphas_cumprod.to("cpu", torch.float64)
    last = scheduler.final_alpha_cumprod.to("cpu", torch.float64)
    alpha, alpha_next = cumulative[timesteps], torch.where(following >= 0, cumulative[following.clamp(min=0)], last)
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    zeros, ones = torch.zeros_like(alpha), torch.ones_like(alpha)
    answers = {"epsilon": (zeros, ones), "sample": (ones, zeros), "v_prediction": (-noise, signal)}
    predicts = scheduler.config.prediction_type
    if predicts not in answers:
        raise ConfigError(f"prediction type {predicts!r} is unknown, use epsilon, v_prediction or sample")
    return Kernel(timesteps, signal, noise, alpha_next.sqrt(), (1 - alpha_next).sqrt(), *answers[predicts], eta)
