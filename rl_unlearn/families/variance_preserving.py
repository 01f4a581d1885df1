"""The kernel of models that were trained with variance-preserving noise: signal and noise are sine
and cosine.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler

from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.kernel import Kernel


def read_scheduler(folder: Path) -> DDIMScheduler:
    """Returns the one DDIM scheduler that policy and critic have of a pipeline's folder, whatever
    sampler lies there.
    """
    try:
        config, _ = DDIMScheduler.load_config(folder / "scheduler", return_unused_kwargs=True)
        # Clipping or thresholding x0 would make the stored action something else than a draw of the
        # kernel. The offset is 1 because the pipeline of plain diffusers sets it so, whatever the
        # file says.
        return DDIMScheduler.from_config(
            config, clip_sample=False, thresholding=False, steps_offset=1
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder / 'scheduler'} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def kernel(
    scheduler: DDIMScheduler,
    steps: int,
    eta: float,
    _latent_shape: tuple[int, int, int] | None = None,
) -> Kernel:
    """Returns the steps of a `diffusers.DDIMScheduler`.

    Raises ConfigError for an unknown prediction type, or an eta that is not positive.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    following = timesteps - scheduler.config.num_train_timesteps // steps
    cumulative = scheduler.alphas_cumprod.to("cpu", torch.float64)
    last = scheduler.final_alpha_cumprod.to("cpu", torch.float64)
    alpha, alpha_next = (
        cumulative[timesteps],
        torch.where(following >= 0, cumulative[following.clamp(min=0)], last),
    )
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    zeros, ones = torch.zeros_like(alpha), torch.ones_like(alpha)
    answers = {"epsilon": (zeros, ones), "sample": (ones, zeros), "v_prediction": (-noise, signal)}
    predicts = scheduler.config.prediction_type
    if predicts not in answers:
        raise ConfigError(
            f"prediction type {predicts!r} is unknown, use epsilon, v_prediction or sample"
        )
    return Kernel(
        timesteps,
        signal,
        noise,
        alpha_next.sqrt(),
        (1 - alpha_next).sqrt(),
        *answers[predicts],
        eta,
    )
