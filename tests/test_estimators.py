"""Advantage estimators against slow loops, RLlib, and a policy gradient that is known exactly."""

import math

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala.torch.vtrace_torch_v2 import vtrace_torch

from rl_unlearn.estimators import PromptStatistics, gae, standardised, vtrace
from rl_unlearn.losses import clipped_policy_loss, importance_ratio, pathwise_loss

BATCH, STEPS = 6, 7


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values (with the unused one of the final state), rewards, and ratios around 1."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(BATCH, STEPS + 1, generator=generator, dtype=torch.float64)
    rewards = torch.randn(BATCH, generator=generator, dtype=torch.float64)
    log_ratios = torch.randn(BATCH, STEPS, generator=generator, dtype=torch.float64)
    return values, rewards, log_ratios.exp()


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_discounted_sum_of_temporal_differences(lam):
    values, rewards, _ = sample()
    expected = torch.zeros(BATCH, STEPS, dtype=torch.float64)
    for n in range(BATCH):
        for k in range(STEPS):
            for m in range(k, STEPS):
                after = values[n, m + 1] if m + 1 < STEPS else rewards[n]
                expected[n, k] += lam ** (m - k) * (after - values[n, m])
    torch.testing.assert_close(gae(values, rewards, lam), expected)


def test_gae_by_hand():
    values, rewards = torch.tensor([[1.0, 3.0, 2.0, 99.0]]), torch.tensor([5.0])
    torch.testing.assert_close(gae(values, rewards, 0.0), torch.tensor([[2.0, -1.0, 3.0]]))
    torch.testing.assert_close(gae(values, rewards, 1.0), torch.tensor([[4.0, 2.0, 3.0]]))
    torch.testing.assert_close(gae(values, rewards, 0.5), torch.tensor([[2 - 0.5 + 0.75, -1 + 1.5, 3.0]]))


def test_the_value_of_the_final_state_plays_no_part():
    values, rewards, ratios = sample()
    other = values.clone()
    other[:, -1] = 1e6
    assert torch.equal(gae(values, rewards, 0.9), gae(other, rewards, 0.9))
    assert torch.equal(vtrace(values, rewards, ratios, 1.0), vtrace(other, rewards, ratios, 1.0))


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_gae_of_one_trace_is_that_of_its_halves(lam):
    # The first half ends where the second begins: its "reward" is V there, plus what lambda lets through.
    values, rewards, _ = sample()
    cut = 3
    whole = gae(values, rewards, lam)
    tail = gae(values[:, cut:], rewards, lam)
    torch.testing.assert_close(whole[:, cut:], tail)
    head = gae(values[:, : cut + 1], values[:, cut] + lam * tail[:, 0], lam)
    torch.testing.assert_close(whole[:, :cut], head)


def slow_vtrace(values, rewards, ratios, bar):
    """Espeholt et al. 2018, eq. 1, close to the notation of the paper; gamma = 1, x_T terminal with V = 0."""
    advantages = np.zeros(ratios.shape)
    for n in range(ratios.shape[0]):
        V = [*values[n, :-1], 0.0]
        T = ratios.shape[1]
        r = [0.0] * (T - 1) + [rewards[n]]
        rho = [min(bar, w) for w in ratios[n]]
        c = [min(bar, w) for w in ratios[n]]
        v = [
            V[s] + sum(math.prod(c[i] for i in range(s, t)) * rho[t] * (r[t] + V[t + 1] - V[t]) for t in range(s, T))
            for s in range(T)
        ] + [0.0]
        for s in range(T):
            advantages[n, s] = rho[s] * (r[s] + v[s + 1] - V[s])
    return advantages


@pytest.mark.parametrize("truncation", [0.7, 1.0, 1.5, 100.0])
def test_vtrace_is_that_of_the_paper(truncation):
    values, rewards, ratios = sample()
    expected = slow_vtrace(values.numpy(), rewards.numpy(), ratios.numpy(), truncation)
    np.testing.assert_allclose(vtrace(values, rewards, ratios, truncation).numpy(), expected, rtol=1e-12)


def test_vtrace_is_that_of_rllib():
    # RLlib truncates c at 1 always: comparable where rho is truncated there, too.
    values, rewards, ratios = sample()
    discounts = torch.ones(STEPS, BATCH, dtype=torch.float64)
    discounts[-1] = 0
    all_rewards = torch.zeros(STEPS, BATCH, dtype=torch.float64)
    all_rewards[-1] = rewards
    _, expected = vtrace_torch(
        target_action_log_probs=ratios.log().T,
        behaviour_action_log_probs=torch.zeros(STEPS, BATCH, dtype=torch.float64),
        discounts=discounts,
        rewards=all_rewards,
        values=values[:, :-1].T,
        bootstrap_values=torch.zeros(BATCH, dtype=torch.float64),
    )
    torch.testing.assert_close(vtrace(values, rewards, ratios, 1.0), expected.T)


def test_vtrace_on_policy_is_gae_with_lambda_one():
    values, rewards, ratios = sample()
    torch.testing.assert_close(vtrace(values, rewards, torch.ones_like(ratios), 1.0), gae(values, rewards, 1.0))


def test_standardised_divides_and_does_not_shift():
    advantages = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    torch.testing.assert_close(standardised(advantages), advantages / math.sqrt(5.0))
    assert torch.isfinite(standardised(torch.ones(2, 2))).all()


def test_prompt_statistics_by_hand():
    statistics = PromptStatistics(length=4, minimum=2)
    first = statistics.advantages(torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 6.0]))
    # Prompt 0 has one reward: all three (mean 3, variance 14/3). Prompt 1: mean 4, std 2.
    expected = torch.tensor([(1 - 3) / math.sqrt(14 / 3), -1.0, 1.0])
    torch.testing.assert_close(first, expected, atol=2e-4, rtol=0)
    second = statistics.advantages(torch.tensor([0]), torch.tensor([5.0]))
    torch.testing.assert_close(second, torch.tensor([1.0]), atol=2e-4, rtol=0)  # prompt 0: {1, 5}


def test_prompt_statistics_forget_what_is_old():
    statistics = PromptStatistics(length=3, minimum=2)
    statistics.advantages(torch.zeros(3, dtype=torch.int64), torch.full((3,), 1000.0))
    after = statistics.advantages(torch.zeros(3, dtype=torch.int64), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(after, torch.tensor([-1.0, 0.0, 1.0]) / math.sqrt(2 / 3), atol=2e-4, rtol=0)


def test_prompt_statistics_of_equal_rewards_are_zero():
    result = PromptStatistics(minimum=2).advantages(torch.zeros(4, dtype=torch.int64), torch.full((4,), 2.5))
    assert torch.equal(result, torch.zeros(4))


class Chain:
    """x_{k+1} = A x_k + theta + std_k * noise in two dimensions, reward -|x_T - goal|^2 / 2: all values are known.

    E[x_T] = A^T x_0 + S theta, S = sum of A^j for j < T; grad_theta J = -S^T (E[x_T] - goal).
    """

    steps, std = 3, torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    transition = torch.tensor([[0.9, 0.2], [-0.1, 0.7]], dtype=torch.float64)
    start = torch.tensor([1.0, -0.5], dtype=torch.float64)
    goal = torch.tensor([0.3, 0.8], dtype=torch.float64)

    def mean(self, states: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return states @ self.transition.T + theta

    def power(self, n: int) -> torch.Tensor:
        return torch.linalg.matrix_power(self.transition, n)

    def drift(self, left: int) -> torch.Tensor:
        return sum((self.power(j) for j in range(left)), torch.zeros(2, 2, dtype=torch.float64))

    def expected_end(self, states: torch.Tensor, left: int, theta: torch.Tensor) -> torch.Tensor:
        return states @ self.power(left).T + self.drift(left) @ theta

    def spread(self, left: int) -> float:
        """Trace of the covariance of x_T seen from ``left`` steps before."""
        return sum(
            float(self.std[self.steps - 1 - j] ** 2 * (self.power(j) @ self.power(j).T).trace()) for j in range(left)
        )

    def value(self, states: torch.Tensor, k: int, theta: torch.Tensor) -> torch.Tensor:
        left = self.steps - k
        off = self.expected_end(states, left, theta) - self.goal
        return -0.5 * (off.square().sum(dim=1) + self.spread(left))

    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        end = self.expected_end(self.start[None], self.steps, theta)[0]
        return -self.drift(self.steps).T @ (end - self.goal)

    def log_probs(self, actions: torch.Tensor, states: torch.Tensor, k: int, theta: torch.Tensor) -> torch.Tensor:
        """Joint over the two dimensions: D = 1 in the product's per-dimension units."""
        return -(actions - self.mean(states, theta)).square().sum(dim=1) / (2 * self.std[k] ** 2)

    def rollout(self, theta: torch.Tensor, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        states = [self.start.expand(count, 2)]
        for k in range(self.steps):
            noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
            states.append(self.mean(states[-1], theta) + self.std[k] * noise)
        return torch.stack(states, dim=1)


def assert_unbiased(samples: torch.Tensor, truth: torch.Tensor) -> None:
    error = (samples.mean(dim=0) - truth) / (samples.std(dim=0) / math.sqrt(len(samples)))
    assert error.abs().max() < 4, f"{error.tolist()} standard errors away from {truth.tolist()}"


def per_sample_gradients(loss_of, theta: torch.Tensor, count: int) -> torch.Tensor:
    # Each sample gets its own copy of theta: one backward pass gives all single gradients.
    copies = theta.expand(count, 2).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(loss_of(copies).sum(), copies)
    return -gradients


COUNT = 40_000
THETA = torch.tensor([0.1, -0.2], dtype=torch.float64)


@pytest.mark.parametrize("name", ["terminal", "critic 0", "critic 0.5", "critic 1", "vtrace"])
def test_the_likelihood_ratio_gradient_is_unbiased(name):
    chain = Chain()
    states = chain.rollout(THETA, COUNT)
    rewards = chain.value(states[:, -1], chain.steps, THETA)
    values = torch.stack([chain.value(states[:, k], k, THETA) for k in range(chain.steps + 1)], dim=1)
    if name == "terminal":
        advantages = (rewards - 0.3)[:, None].expand(-1, chain.steps)
    elif name == "vtrace":
        advantages = vtrace(values, rewards, torch.ones(COUNT, chain.steps, dtype=torch.float64), 1.0)
    else:
        advantages = gae(values, rewards, float(name.split()[1]))

    def loss(theta: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(COUNT, dtype=torch.float64)
        for k in range(chain.steps):
            behaviour = chain.log_probs(states[:, k + 1], states[:, k], k, THETA)
            ratio = importance_ratio(chain.log_probs(states[:, k + 1], states[:, k], k, theta), behaviour)
            total = total + clipped_policy_loss(ratio, advantages[:, k], clip=1e9)
        return total

    assert_unbiased(per_sample_gradients(loss, THETA, COUNT), chain.gradient(THETA))


def test_the_pathwise_gradient_is_unbiased_with_the_exact_value():
    chain = Chain()
    states = chain.rollout(THETA, COUNT)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(COUNT, dtype=torch.float64)
        for k in range(chain.steps):
            action = states[:, k + 1].clone().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(chain.value(action, k + 1, THETA).sum(), action)
            total = total + pathwise_loss(
                torch.ones(COUNT, dtype=torch.float64), chain.mean(states[:, k], theta), gradient, clip=1e9
            )
        return total

    gradients = per_sample_gradients(loss, THETA, COUNT)
    assert_unbiased(gradients, chain.gradient(THETA))


def test_an_off_by_one_in_the_critics_level_would_show():
    # The statistical test has the power to see the value of the wrong level: it must fail with it.
    chain = Chain()
    states = chain.rollout(THETA, COUNT)
    rewards = chain.value(states[:, -1], chain.steps, THETA)
    shifted = torch.stack([chain.value(states[:, k], min(k + 1, 3), THETA) for k in range(4)], dim=1)
    advantages = gae(shifted, rewards, 0.0)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(COUNT, dtype=torch.float64)
        for k in range(chain.steps):
            behaviour = chain.log_probs(states[:, k + 1], states[:, k], k, THETA)
            ratio = importance_ratio(chain.log_probs(states[:, k + 1], states[:, k], k, theta), behaviour)
            total = total + clipped_policy_loss(ratio, advantages[:, k], clip=1e9)
        return total

    with pytest.raises(AssertionError, match="standard errors"):
        assert_unbiased(per_sample_gradients(loss, THETA, COUNT), chain.gradient(THETA))
