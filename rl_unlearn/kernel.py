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

    def told(
        self, index: Index, device: torch.device
    ) -> Float[Tensor, "*rows"] | Int[Tensor, "*rows"]:
        """Returns what the network is told at some steps, on its device."""
        return self._entries("timesteps", index, device)

    def mean(self, output: Latents, latents: Latents, index: Index) -> Latents:
        """Returns the mean of the action where the network gave ``output`` for ``latents``."""
        state = latents.float()
        of_state, of_output = (
            self._at(name, index, state) for name in ("state in mean", "answer in mean")
        )
        return of_state * state + of_output * output.float()

    def predicted_x0(self, mean: Latents, latents: Latents, index: Index) -> Latents:
        """Returns the final latents that the model expected when it chose ``mean`` at ``latents``.

        Some samplers end with a step that changes nothing and so tells nothing: there the latents
        are all but final.
        """
        state = latents.float()
        of_mean, of_state = (self._at(name, index, state) for name in ("mean in x0", "state in x0"))
        return of_mean * mean + of_state * state

    def log_prob(self, action: Latents, mean: Latents, index: Index) -> Float[Tensor, " batch"]:
        """Returns the action's log-density in nats *per latent dimension* (the joint one over D).

        A step without noise is no random action: its log-prob is 0.
        """
        std = self._entries("std", index, action.device)
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
            action = (mean + self._at("std", index, mean) * noise.float()).to(latents.dtype)
        assert action is not None
        return action, self.log_prob(action, mean, index), mean

    def kl(self, mean: Latents, reference: Latents, index: Index) -> Float[Tensor, " batch"]:
        """Returns the joint KL, in nats, of the kernel around ``mean`` to another's."""
        std = self._entries("std", index, mean.device)
        return (mean - reference).square().flatten(1).sum(dim=1) / (2 * std**2)

    def noisy(self, x0: Latents, eps: Latents, index: Index) -> Latents:
        """Returns the states from which these steps start, of given latents and unit noise."""
        return self._at("signal", index, x0) * x0 + self._at("noise", index, x0) * eps

    def answer(self, x0: Latents, eps: Latents, index: Index) -> Latents:
        """Returns what a network that knew them would answer at :meth:`noisy`."""
        return self._at("clean", index, x0) * x0 + self._at("dirty", index, x0) * eps

    def renoised(self, final: Latents, eps: Latents, level: Index) -> Latents:
        """Returns states at some of the T + 1 levels, led to from the final latents by noise."""
        kept, fresh = (self._at(name, level, final) for name in ("final kept", "fresh noise"))
        return kept * final + fresh * eps

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

    @cached_property
    def _renoised_shares(self) -> tuple[Float[Tensor, " levels"], Float[Tensor, " levels"]]:
        """Shares of the final latents and of fresh noise in the states of all T + 1 levels."""
        share = torch.cat([self.signal, self.signal_next[-1:]]) / self.signal_next[-1]
        noise = torch.cat([self.noise, self.noise_next[-1:]])
        return share, (noise.square() - (share * self.noise_next[-1]).square()).clamp(min=0).sqrt()

    def _at(self, name: str, index: Index, like: Tensor) -> Tensor:
        """Entries of a table, to be multiplied with rows of latents."""
        picked = self._entries(name, index, like.device)
        return picked.reshape(-1, *[1] * (like.dim() - 1)) if picked.dim() else picked

    def _entries(self, name: str, index: Index, device: torch.device) -> Tensor:
        """Entries of a table, of which a device has its own: nothing crosses over at each step."""
        if device not in self._placed:
            self._placed[device] = {key: t.to(device) for key, t in self._tables.items()}
        if isinstance(index, Tensor):
            index = index.to(device, non_blocking=True)
        return self._placed[device][name][index]

    @cached_property
    def _placed(self) -> dict[torch.device, dict[str, Tensor]]:
        return {}

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        """What is computed by, as fp32."""
        of_state, of_answer = self._mean_shares
        of_mean, of_noisy = self._x0_shares
        kept, fresh = self._renoised_shares
        wide = {
            "std": self.std, "signal": self.signal, "noise": self.noise,
            "clean": self.clean, "dirty": self.dirty,
            "state in mean": of_state, "answer in mean": of_answer,
            "mean in x0": of_mean, "state in x0": of_noisy,
            "final kept": kept, "fresh noise": fresh,
        }  # fmt: skip
        return {"timesteps": self.timesteps} | {name: table.float() for name, table in wide.items()}
