"""The policy's kernel as a table: one stochastic denoising step, for acting and for learning, of
every kind of model.

A model that denoises takes a state ``x = signal x0 + noise eps`` to the next one, with more signal
and less noise, and its network answers ``clean x0 + dirty eps``. That is all a step needs: state
and answer are two equations for x0 and eps, and the policy is ``pi(x' | x, c) = N(signal' x0 +
sqrt(noise'^2 - std^2) eps, std^2 I)`` (Song et al. 2021, arXiv 2010.02502, eq. 12), whether noise
is mixed in as in diffusion or as in flow matching.

Rollouts sample from it, the learner evaluates stored samples under it; both go through
:meth:`Kernel.step`, so they cannot disagree.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.errors import ConfigError

MIN_STD = 0.05
"""Steps with a smaller std draw no semantics but have wild ratios and 1/std^2 weights: they act,
but teach nothing."""

Latents = Float[Tensor, "batch *latent"]
"""Or whatever else has their shape: noise, means, answers of the network."""
Index = Int[Tensor, " batch"] | int
"""Numbers of steps, one for each row or one for all; 0 is the step from pure noise."""


@dataclass(frozen=True)
class Kernel:
    """The T steps of a sampler, first to last.

    Tables are fp64 on the CPU; what is computed by them is fp32.
    """

    timesteps: Float[Tensor, " steps"] | Int[Tensor, " steps"]
    """What the network is told at each step, in [0, 1000]."""
    signal: Float[Tensor, " steps"]
    """Share of x0 in the state that a step starts from."""
    noise: Float[Tensor, " steps"]
    """Share of the unit noise in it."""
    signal_next: Float[Tensor, " steps"]
    """Share of x0 in the state that a step leads to. Some samplers of diffusers tell the network a
    neighbour of it."""
    noise_next: Float[Tensor, " steps"]
    """Share of the unit noise in it."""
    clean: Float[Tensor, " steps"]
    """Share of x0 in the network's answer."""
    dirty: Float[Tensor, " steps"]
    """Share of the unit noise in the network's answer."""
    eta: float
    """Share of the largest std; at 1 the step is the exact posterior ``q(x_{k+1} | x_k, x0)``."""

    def __post_init__(self) -> None:
        """Raises ConfigError if eta is not positive."""
        if self.eta <= 0:
            raise ConfigError(
                f"sampler.eta is {self.eta}: a deterministic sampler is no policy to learn, use 0 "
                "< sampler.eta <= 1"
            )

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def std(self) -> Float[Tensor, " steps"]:
        """Standard deviation of each action."""
        kept = self.signal * self.noise_next / (self.signal_next * self.noise)
        return self.eta * self.noise_next * (1 - kept.square()).clamp(min=0).sqrt()

    @property
    def learned(self) -> Int[Tensor, " learned"]:
        """Numbers of the steps whose action is random enough to be learned from (std >=
        MIN_STD)."""
        return (self.std >= MIN_STD).nonzero().flatten()

    @property
    def levels(self) -> Float[Tensor, " levels"] | Int[Tensor, " levels"]:
        """Timesteps of all T + 1 states, from pure noise to the final latents (0)."""
        return torch.cat([self.timesteps, torch.zeros_like(self.timesteps[:1])])

    def mean(self, output: Latents, latents: Latents, index: Index) -> Latents:
        """Returns the mean of the action where the network gave ``output`` for ``latents``."""
        of_state, of_output = self._mean_shares
        state = latents.float()
        return _at(of_state, index, state) * state + _at(of_output, index, state) * output.float()

    def predicted_x0(self, mean: Latents, latents: Latents, index: Index) -> Latents:
        """Returns the final latents that the model expected when it chose ``mean`` at ``latents``.

        Some samplers end with a step that changes nothing and so tells nothing: there the latents
        are all but final.
        """
        of_mean, of_state = self._x0_shares
        state = latents.float()
        return _at(of_mean, index, state) * mean + _at(of_state, index, state) * state

    def log_prob(self, action: Latents, mean: Latents, index: Index) -> Float[Tensor, " batch"]:
        """Returns the action's log-density in nats *per latent dimension* (the joint one over D).

        A step without noise is no random action: its log-prob is 0.
        """
        std = self.std.float()[index].to(action.device)
        squared = (action.float() - mean).square().flatten(1).mean(dim=1)
        safe = std.clamp(min=1e-12)
        density = -squared / (2 * safe**2) - safe.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(std > 0, density, torch.zeros_like(density))

    def step(
        self,
        output: Latents,
        latents: Latents,
        index: Index,
        *,
        noise: Latents | None = None,
        action: Latents | None = None,
    ) -> tuple[Latents, Float[Tensor, " batch"], Latents]:
        """Samples an action from ``noise``, or takes the given one; returns (action, log_prob,
        mean).

        The action is rounded to the storage type of ``latents`` *before* its log-prob is computed
        in fp32, so that the behaviour log-prob belongs to the latents that are stored.
        """
        if (noise is None) == (action is None):
            raise ValueError(
                "step takes either noise to sample an action, or an action to evaluate"
            )
        mean = self.mean(output, latents, index)
        if noise is not None:
            action = (mean + _at(self.std, index, mean) * noise.float()).to(latents.dtype)
        assert action is not None
        return action, self.log_prob(action, mean, index), mean

    def kl(self, mean: Latents, reference: Latents, index: Index) -> Float[Tensor, " batch"]:
        """Returns the joint KL, in nats, of the kernel around ``mean`` to another's."""
        std = self.std.float()[index].to(mean.device)
        return (mean - reference).square().flatten(1).sum(dim=1) / (2 * std**2)

    def noisy(self, x0: Latents, eps: Latents, index: Index) -> Latents:
        """Returns the states from which these steps start, of given latents and unit noise."""
        return _at(self.signal, index, x0) * x0 + _at(self.noise, index, x0) * eps

    def answer(self, x0: Latents, eps: Latents, index: Index) -> Latents:
        """Returns what a network that knew them would answer at :meth:`noisy`."""
        return _at(self.clean, index, x0) * x0 + _at(self.dirty, index, x0) * eps

    def renoised(self, final: Latents, eps: Latents, level: Index) -> Latents:
        """Returns states at some of the T + 1 levels, led to from the final latents by noise."""
        share = torch.cat([self.signal, self.signal_next[-1:]]) / self.signal_next[-1]
        noise = torch.cat([self.noise, self.noise_next[-1:]])
        fresh = (noise.square() - (share * self.noise_next[-1]).square()).clamp(min=0).sqrt()
        return _at(share, level, final) * final + _at(fresh, level, final) * eps

    @cached_property
    def _kept_noise(self) -> Float[Tensor, " steps"]:
        """Share of eps in the mean."""
        return (self.noise_next.square() - self.std.square()).clamp(min=0).sqrt()

    @cached_property
    def _mean_shares(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """Shares of state and answer in the mean: both equations solved for x0 and eps, and put
        in."""
        kept, determinant = self._kept_noise, self.signal * self.dirty - self.noise * self.clean
        of_state = (self.signal_next * self.dirty - kept * self.clean) / determinant
        return of_state, (kept * self.signal - self.signal_next * self.noise) / determinant

    @cached_property
    def _x0_shares(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """Shares of mean and state in x0, by the same equations."""
        kept = self._kept_noise / self.noise
        known = self.signal_next - kept * self.signal
        tells = known > 1e-4
        of_mean = torch.where(tells, 1 / known, 1 / self.signal_next)
        return of_mean, torch.where(tells, -kept / known, torch.zeros_like(known))


def _at(table: Float[Tensor, " rows"], index: Index, like: Tensor) -> Tensor:
    """Entries of a table as fp32, to be multiplied with rows of latents."""
    picked = table.float()[index].to(like.device)
    return picked.reshape(-1, *[1] * (like.dim() - 1)) if picked.dim() else picked
