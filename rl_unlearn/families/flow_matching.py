"""The kernel of models that were trained by flow matching: noise is mixed in along a straight
line."""

from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.errors import DataError
from rl_unlearn.kernel import Kernel
from rl_unlearn.layouts.flow_matching import SOLVER

_PATCH = 2


def straight(sigmas: Float[Tensor, " levels"], eta: float) -> Kernel:
    """Steps between shares of noise that fall from 1, or a little less, to 0; networks answer noise
    less x0.

    At an eta of 1 a step is the exact posterior, and at 0 it would be Euler's. The stochastic
    samplers that are common for these models (Liu et al. 2025, arXiv 2505.05470) leave several
    times the texture of the data as noise at few steps, and the critic's gradients have the right
    size at every step under the posterior alone.
    """
    wide = sigmas.to("cpu", torch.float64)
    start, end = wide[:-1], wide[1:]
    ones = torch.ones_like(start)
    return Kernel((1000 * start).float(), 1 - start, start, 1 - end, end, -ones, ones, eta)


def read_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """Returns the scheduler of a pipeline's folder; for a solver of flows one of the same shift."""
    kind = FlowMatchEulerDiscreteScheduler
    try:
        config = kind.load_config(folder / "scheduler", local_files_only=True)
        if config.get("_class_name") == SOLVER:
            return kind(config.get("num_train_timesteps", 1000), config.get("flow_shift", 1.0))
        return kind.from_config(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{folder / 'scheduler'} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def kernel(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    eta: float,
    latent_shape: tuple[int, int, int],
) -> Kernel:
    """Returns a scheduler's steps; how far it shifts them may depend on the number of tokens."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return shifted(scheduler, steps, eta)
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    return shifted(
        scheduler, steps, eta, config.get("base_shift", 0.5) + slope * (tokens(latent_shape) - low)
    )


def tokens(latent_shape: tuple[int, int, int]) -> int:
    """Counts the tokens of an image, 2 by 2 latents each."""
    return latent_shape[1] * latent_shape[2] // _PATCH**2


def shifted(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, eta: float, mu: float | None = None
) -> Kernel:
    """Returns the steps of a scheduler, shifted by ``mu`` if it is one that shifts them
    dynamically.

    Shares of noise are even before the model's shift, and the last step is as long as the others:
    left to itself the scheduler ends, at few steps, with one that moves nothing.
    """
    mu = mu if scheduler.config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return straight(scheduler.sigmas, eta)
