"""One stochastic DDIM step for acting and for learning (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

The reverse kernel is the policy: ``pi(x_prev | x_t, c) = N(mean(x_t, t, c), std_t^2 I)``. Rollouts sample from it, the
learner re-evaluates stored samples under it; both go through :func:`step`, so they cannot disagree.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.errors import ConfigError

# Steps with a smaller std draw no semantics but have wild ratios and 1/std^2 weights: they act, but teach nothing.
MIN_STD = 0.05


@dataclass(frozen=True)
class Schedule:
    """The T denoising steps of a sampler, first to last. Tensors are fp32 of shape (T,), on the CPU."""

    timesteps: Int[Tensor, " steps"]
    alpha: Float[Tensor, " steps"]
    """Cumulative alpha of the state a step starts from."""
    alpha_prev: Float[Tensor, " steps"]
    """Cumulative alpha of the state a step leads to."""
    std: Float[Tensor, " steps"]
    """Standard deviation of the action, eta * sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))."""
    prediction_type: str

    @classmethod
    def from_scheduler(cls, scheduler: DDIMScheduler, steps: int, eta: float) -> "Schedule":
        """The schedule of a `diffusers.DDIMScheduler` at a number of steps; ConfigError if eta is not positive."""
        if eta <= 0:
            raise ConfigError(
                f"sampler.eta is {eta}: a deterministic sampler is no policy to learn, use 0 < sampler.eta <= 1"
            )
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.to("cpu", torch.int64)
        previous = timesteps - scheduler.config.num_train_timesteps // steps
        cumulative = scheduler.alphas_cumprod.to("cpu", torch.float64)
        alpha = cumulative[timesteps]
        final = scheduler.final_alpha_cumprod.to("cpu", torch.float64)
        alpha_prev = torch.where(previous >= 0, cumulative[previous.clamp(min=0)], final)
        std = eta * ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)).clamp(min=0).sqrt()
        return cls(timesteps, alpha.float(), alpha_prev.float(), std.float(), scheduler.config.prediction_type)

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def learned(self) -> Int[Tensor, " learned"]:
        """Indices of the steps whose action is random enough to be learned from (std >= MIN_STD)."""
        return (self.std >= MIN_STD).nonzero().flatten()

    @property
    def signal(self) -> Float[Tensor, " levels"]:
        """Share of the final latents in all T + 1 states: square root of the cumulative alpha, 1 at the end."""
        return torch.cat([self.alpha.sqrt(), torch.ones(1)])

    @property
    def levels(self) -> Int[Tensor, " levels"]:
        """Timesteps of all T + 1 states, from pure noise to the final latents (0)."""
        return torch.cat([self.timesteps, torch.zeros(1, dtype=torch.int64)])


def _per_sample(values: Tensor, index: Tensor | int, like: Tensor) -> Tensor:
    picked = values[index].to(like.device)
    return picked.reshape(-1, *[1] * (like.dim() - 1)) if picked.dim() else picked


def reverse_kernel(
    model_output: Float[Tensor, "batch *latent"],
    latents: Float[Tensor, "batch *latent"],
    schedule: Schedule,
    index: Int[Tensor, " batch"] | int,
) -> Float[Tensor, "batch *latent"]:
    """Mean of the action in fp32: ``sqrt(alpha_prev) x0 + sqrt(1 - alpha_prev - std^2) eps``.

    ``index`` is the step number (0 = from pure noise), one for all or one for each sample.
    """
    output, state = model_output.float(), latents.float()
    alpha, alpha_prev, std = (_per_sample(v, index, state) for v in (schedule.alpha, schedule.alpha_prev, schedule.std))
    if schedule.prediction_type == "epsilon":
        eps = output
        x0 = (state - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    elif schedule.prediction_type == "v_prediction":
        x0 = alpha.sqrt() * state - (1 - alpha).sqrt() * output
        eps = alpha.sqrt() * output + (1 - alpha).sqrt() * state
    elif schedule.prediction_type == "sample":
        x0 = output
        eps = (state - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    else:
        raise ConfigError(
            f"prediction type {schedule.prediction_type!r} is unknown, use epsilon, v_prediction or sample"
        )
    return alpha_prev.sqrt() * x0 + (1 - alpha_prev - std**2).clamp(min=0).sqrt() * eps


def predicted_x0(
    mean: Float[Tensor, "batch *latent"],
    latents: Float[Tensor, "batch *latent"],
    schedule: Schedule,
    index: Int[Tensor, " batch"] | int,
) -> Float[Tensor, "batch *latent"]:
    """The final latents that the model expected when it chose ``mean`` (see reverse_kernel) at ``latents``; fp32.

    Some schedulers end with a step that changes nothing and so tells nothing: there the latents are all but final.
    """
    state = latents.float()
    alpha, alpha_prev, std = (_per_sample(v, index, state) for v in (schedule.alpha, schedule.alpha_prev, schedule.std))
    # In the mean of reverse_kernel, eps is (state - sqrt(alpha) x0) / sqrt(1 - alpha).
    share = ((1 - alpha_prev - std**2).clamp(min=0) / (1 - alpha)).sqrt()
    known = alpha_prev.sqrt() - share * alpha.sqrt()
    return torch.where(known > 1e-4, (mean - share * state) / known, mean / alpha_prev.sqrt())


def log_prob(
    action: Float[Tensor, "batch *latent"],
    mean: Float[Tensor, "batch *latent"],
    schedule: Schedule,
    index: Int[Tensor, " batch"] | int,
) -> Float[Tensor, " batch"]:
    """Gaussian log-density of the action in nats *per latent dimension* (the joint one divided by D), fp32.

    A step without noise is no random action: its log-prob is 0.
    """
    std = schedule.std[index].to(action.device)
    squared = (action.float() - mean).square().flatten(1).mean(dim=1)
    safe = std.clamp(min=1e-12)
    density = -squared / (2 * safe**2) - safe.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(std > 0, density, torch.zeros_like(density))


def step(
    model_output: Float[Tensor, "batch *latent"],
    latents: Float[Tensor, "batch *latent"],
    schedule: Schedule,
    index: Int[Tensor, " batch"] | int,
    *,
    noise: Float[Tensor, "batch *latent"] | None = None,
    action: Float[Tensor, "batch *latent"] | None = None,
) -> tuple[Float[Tensor, "batch *latent"], Float[Tensor, " batch"], Float[Tensor, "batch *latent"]]:
    """Samples an action from ``noise``, or takes the given one; returns (action, log_prob, mean).

    The action is rounded to the storage type of ``latents`` *before* its log-prob is computed in fp32, so that the
    behaviour log-prob belongs to the latents that are stored.
    """
    if (noise is None) == (action is None):
        raise ValueError("step takes either noise to sample an action, or an action to evaluate")
    mean = reverse_kernel(model_output, latents, schedule, index)
    if noise is not None:
        std = _per_sample(schedule.std, index, mean)
        action = (mean + std * noise.float()).to(latents.dtype)
    assert action is not None
    return action, log_prob(action, mean, schedule, index), mean
