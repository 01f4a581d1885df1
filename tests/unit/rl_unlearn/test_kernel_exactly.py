"""The kernel on a mixture of Gaussians, whose best network is known: what is drawn, and whose
credit it is.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from rl_unlearn.families import flow_matching, variance_preserving
from rl_unlearn.kernel import Kernel

DIMENSIONS, CLASSES = 16, 4
COUNT = 2000


@dataclass(frozen=True)
class Mixture:
    """Classes of images that lie apart, each with some texture."""

    shares: Tensor
    centres: Tensor
    texture: float

    def expected_x0(self, state: Tensor, signal: float, noise: float) -> Tensor:
        """``E[x0 | state]``: the centre of each class, pulled towards the state, by the odds of the
        classes.
        """
        variance = (signal * self.texture) ** 2 + noise**2
        away = state[:, None, :] - signal * self.centres
        odds = (self.shares.log() - away.square().sum(dim=2) / (2 * variance)).softmax(dim=1)
        pulled = self.centres + signal * self.texture**2 / variance * away
        return (odds[:, :, None] * pulled).sum(dim=1)

    def output(
        self, kernel: Kernel, state: Tensor, step: int, push: Tensor | float = 0.0
    ) -> Tensor:
        """The best network's answer; ``push`` is added to its x0."""
        signal, noise = float(kernel.signal[step]), float(kernel.noise[step])
        x0 = self.expected_x0(state, signal, noise) + push
        return kernel.clean[step] * x0 + kernel.dirty[step] * (state - signal * x0) / noise

    def shares_of(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images, self.centres).argmin(dim=1)
        return torch.bincount(nearest, minlength=CLASSES) / len(images)

    def texture_of(self, images: Tensor) -> float:
        return float((images - self.centres[torch.cdist(images, self.centres).argmin(dim=1)]).std())


def world(distance: float, texture: float) -> Mixture:
    source = torch.Generator().manual_seed(0)
    centres = distance * torch.randn(CLASSES, DIMENSIONS, generator=source, dtype=torch.float64)
    return Mixture(torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), centres, texture)


def diffusion(steps: int, eta: float, prediction: str = "v_prediction") -> Kernel:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False, set_alpha_to_one=True, steps_offset=1, rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )  # fmt: skip
    return variance_preserving.kernel(scheduler, steps, eta)


def flow(steps: int, eta: float, shift: float = 1.0) -> Kernel:
    sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return flow_matching.straight(shift * sigmas / (1 + (shift - 1) * sigmas), eta)


def sampled(mixture: Mixture, kernel: Kernel) -> Tensor:
    """Final states; in fp64, as the network of this world is."""
    source = torch.Generator().manual_seed(1)
    state = kernel.noise[0] * torch.randn(COUNT, DIMENSIONS, generator=source, dtype=torch.float64)
    for step in range(len(kernel)):
        mean = kernel.mean(mixture.output(kernel, state, step), state, step).double()
        state = mean + kernel.std[step] * torch.randn(
            COUNT, DIMENSIONS, generator=source, dtype=torch.float64
        )
    return state


KERNELS = [diffusion, flow, lambda steps, eta: flow(steps, eta, shift=3.0)]
NAMES = ["variance preserving", "flow", "shifted flow"]


@pytest.mark.parametrize("make", KERNELS, ids=NAMES)
def test_it_draws_what_the_probability_flow_draws(make) -> None:
    """Class shares and texture are those of the ODE and of the data; at few steps texture is lost,
    not noise left.
    """
    mixture = world(1.0, 0.2)
    ode, coarse, fine = (
        sampled(mixture, make(500, 1e-9)),
        sampled(mixture, make(25, 1.0)),
        sampled(mixture, make(100, 1.0)),
    )
    for images in (ode, coarse, fine):
        assert float((mixture.shares_of(images) - mixture.shares).abs().sum() / 2) < 0.04
    textures = [mixture.texture_of(images) / mixture.texture for images in (coarse, fine, ode)]
    assert textures == sorted(textures)
    assert textures[1] > 0.8
    assert textures[2] == pytest.approx(1, rel=0.05)


def credit(mixture: Mixture, kernel: Kernel) -> Tensor:
    """What the critic's gradient says each learned step earns, as a share of the gradient through
    the whole sampler.

    The reward is linear: what ``critic.renoised`` teaches, V = E[R | x] of the forward process, is
    known. Each step's x0 is pushed where the reward grows.
    """
    source = torch.Generator().manual_seed(2)
    reward = torch.randn(DIMENSIONS, generator=source, dtype=torch.float64)
    amount = torch.zeros(len(kernel), dtype=torch.float64, requires_grad=True)
    state = kernel.noise[0] * torch.randn(COUNT, DIMENSIONS, generator=source, dtype=torch.float64)
    earned = []
    for step in range(len(kernel)):
        push = amount[step] * reward / reward.norm()
        mean = _mean(kernel, mixture.output(kernel, state, step, push), state, step)
        action = mean + kernel.std[step] * torch.randn(
            COUNT, DIMENSIONS, generator=source, dtype=torch.float64
        )
        at = action.detach().requires_grad_(True)
        signal, noise = float(kernel.signal_next[step]), float(kernel.noise_next[step])
        value = (mixture.expected_x0(at, signal, noise) if noise else at) @ reward
        (slope,) = torch.autograd.grad(value.sum(), at)
        alone = _mean(
            kernel, mixture.output(kernel, state.detach(), step, push), state.detach(), step
        )
        (moved,) = torch.autograd.grad((alone * slope).sum() / COUNT, amount, retain_graph=True)
        earned.append(float(moved[step]))
        state = action
    (exact,) = torch.autograd.grad((state @ reward).mean(), amount)
    return (torch.tensor(earned, dtype=torch.float64) / exact)[kernel.learned]


@pytest.mark.parametrize("make", KERNELS, ids=NAMES)
def test_the_critics_gradient_gives_each_step_its_credit(make) -> None:
    """Within 10 % at every level, where classes overlap; of classes far apart 30 steps are not
    enough to tell.
    """
    found = credit(world(0.5, 0.5), make(30, 1.0))
    assert len(found) >= 28
    assert 0.9 < found.min() <= found.max() < 1.1, found


@pytest.mark.parametrize("make", KERNELS, ids=NAMES)
def test_with_less_noise_the_first_steps_get_no_credit(make) -> None:
    """A sampler that forgets less of its states is another process than the forward one that V was
    learned from.
    """
    found = credit(world(0.5, 0.5), make(30, 0.3))
    assert found[0] < 0.05
    assert found[len(found) // 2] < 0.7


def _mean(kernel: Kernel, output: Tensor, state: Tensor, step: int) -> Tensor:
    """`Kernel.mean` in fp64, which gradients of this size need."""
    of_state, of_output = kernel._mean_shares
    mean = of_state[step] * state + of_output[step] * output
    fp32 = kernel.mean(output.detach(), state.detach(), step)
    torch.testing.assert_close(mean.detach().float(), fp32, atol=1e-5, rtol=1e-4)
    return mean


def test_the_flow_kernel_at_no_noise_is_eulers_step() -> None:
    kernel = flow(10, 1e-9, shift=3.0)
    state, output = torch.randn(2, 5, DIMENSIONS, generator=torch.Generator().manual_seed(3))
    for step in range(10):
        expected = state + (kernel.noise_next[step] - kernel.noise[step]) * output
        torch.testing.assert_close(kernel.mean(output, state, step), expected, atol=1e-5, rtol=1e-5)


def test_the_flow_kernel_is_the_posterior() -> None:
    """Mean and std of ``q(x' | x, x0)`` from the joint Gaussian of x and x', worked out by
    conditioning.
    """
    kernel = flow(10, 1.0, shift=3.0)
    for step in range(9):
        a, s, b, t = (
            float(table[step])
            for table in (kernel.signal, kernel.noise, kernel.signal_next, kernel.noise_next)
        )
        # x = (a / b) x' + fresh noise, so that Cov(x, x') = (a / b) t^2.
        covariance = a / b * t**2
        assert float(kernel.std[step]) == pytest.approx(math.sqrt(t**2 - covariance**2 / s**2))
        x0, x = 0.7, -1.3
        expected = b * x0 + covariance / s**2 * (x - a * x0)
        state, answer = torch.full((1, 1), x), torch.full((1, 1), (x - a * x0) / s - x0)
        assert float(kernel.mean(answer, state, step)) == pytest.approx(expected, abs=1e-5)
