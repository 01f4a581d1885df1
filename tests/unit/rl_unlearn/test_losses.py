"""Losses, controllers, statistics: hand-checked numbers, slow loops, torch.distributions, and PPO's
own surrogate.
"""

import math

import numpy as np
import pytest
import torch

from rl_unlearn.controllers import annealed, next_kl_weight, next_lr, update_kl
from rl_unlearn.losses import (
    control_variate,
    importance_weight,
    joint_log_ratio,
    likelihood_ratio_loss,
    pathwise_loss,
)
from rl_unlearn.statistics import correlation_within, effective_sample_size, explained_variance


def test_the_joint_log_ratio_sums_over_dimensions():
    # Two kernels of unit std, a tenth apart in each of 50 dimensions: per-dimension densities,
    # joint result.
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.distributions.Normal(shift, 1.0).log_prob(action) for shift in (0.1, 0.0))
    found = joint_log_ratio(ours.mean(dim=1), theirs.mean(dim=1), 50)
    torch.testing.assert_close(found, (ours - theirs).sum(dim=1))


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(1.0, [math.exp(-3), 1.0, math.exp(1.5), math.exp(2)]),
     (0.5, [math.exp(-1.5), 1.0, math.exp(0.75), math.e]),
     (0.0, [1.0, 1.0, 1.0, 1.0])],
)  # fmt: skip
def test_importance_weights_by_hand(exponent, expected):
    log_ratio = torch.tensor([-3.0, 0.0, 1.5, 900.0], requires_grad=True)
    weight = importance_weight(log_ratio, exponent, clip=2.0)
    torch.testing.assert_close(weight, torch.tensor(expected))
    assert not weight.requires_grad, "the weight of a replayed action is no path of the gradient"


def surrogate(log_prob, behaviour, advantages, clip):
    """PPO's objective (eq. 7), the bounds of the ratio given in nats, negated."""
    ratio = (log_prob - behaviour).exp()
    bounded = ratio.clamp(math.exp(-clip), math.exp(clip))
    return -torch.minimum(ratio * advantages, bounded * advantages)


def test_the_likelihood_ratio_gradient_is_that_of_ppos_surrogate():
    generator = torch.Generator().manual_seed(0)
    log_prob, behaviour, advantages = 2 * torch.randn(
        3, 1000, generator=generator, dtype=torch.float64
    )
    log_prob.requires_grad_()
    clip = 1.6
    (expected,) = torch.autograd.grad(
        surrogate(log_prob, behaviour, advantages, clip).sum(), log_prob
    )
    log_ratio = (log_prob - behaviour).detach()
    # The one difference: PPO lets the weight of a bad action that has become likelier grow without
    # bound.
    beyond = (advantages < 0) & (log_ratio > clip)
    expected[beyond] *= math.exp(clip) / log_ratio[beyond].exp()
    (found,) = torch.autograd.grad(
        likelihood_ratio_loss(log_prob, log_ratio, advantages, 1.0, clip).sum(), log_prob
    )
    torch.testing.assert_close(found, expected)
    for region in (
        beyond,
        (advantages > 0) & (log_ratio > clip),
        (advantages < 0) & (log_ratio < -clip),
    ):
        assert region.sum() > 50, "the test has lost its point"
    assert (expected == 0).sum() > 100


@pytest.mark.parametrize("exponent", [0.0, 0.01, 0.5])
def test_a_tempered_weight_is_stopped_at_the_same_joint_bound(exponent):
    # Whatever the exponent, a step teaches nothing more once it moved 1.6 nats; inside it weighs
    # w^exponent.
    log_prob = torch.zeros(5, requires_grad=True)
    log_ratio = torch.tensor([1.5, 1.7, -1.5, -1.7, -9.0])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0])
    (found,) = torch.autograd.grad(
        likelihood_ratio_loss(log_prob, log_ratio, advantages, exponent, 1.6).sum(), log_prob
    )
    weights = [math.exp(1.5 * exponent), 0, math.exp(-1.5 * exponent), 0, math.exp(-9 * exponent)]
    torch.testing.assert_close(found, -torch.tensor(weights) * advantages)


@pytest.mark.parametrize("weight", [1.0, torch.tensor([0.5, 1.0, 1.25])])
def test_pathwise_gradient_is_minus_weight_times_action_gradient(weight):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, 2, 2, generator=generator, requires_grad=True)
    gradients = torch.randn(3, 4, 2, 2, generator=generator)
    loss = pathwise_loss(mean, gradients, weight)
    assert loss.shape == (3,)
    (found,) = torch.autograd.grad(loss.sum(), mean)
    torch.testing.assert_close(found, -torch.as_tensor(weight).reshape(-1, 1, 1, 1) * gradients)


def test_the_control_variate_is_a_slow_dot_product():
    generator = torch.Generator().manual_seed(0)
    action, mean, gradients = torch.randn(3, 3, 4, 2, 2, generator=generator)
    action = action.half()
    expected = [
        sum(
            float(gradients[n, c, y, x]) * (float(action[n, c, y, x]) - float(mean[n, c, y, x]))
            for c in range(4)
            for y in range(2)
            for x in range(2)
        )
        for n in range(3)
    ]
    assert control_variate(action - mean, gradients).tolist() == pytest.approx(expected, rel=1e-5)


def test_kl_weight_rises_above_the_budget_and_falls_below():
    after = [
        next_kl_weight(1.0, kl, budget=0.5, rate=0.1) for kl in (0.0, 0.25, 0.5, 0.75, 1.0, 1e9)
    ]
    assert after == sorted(after)
    assert after[0] == pytest.approx(math.exp(-0.1))
    assert after[2] == 1.0
    assert after[3] == pytest.approx(math.exp(0.05))
    assert after[4] == after[5] == pytest.approx(math.exp(0.1)), (
        "one outlier counts as twice the budget, not more"
    )


def test_kl_weight_is_bounded_and_rate_zero_keeps_it():
    weight = 1.0
    for _ in range(1000):
        weight = next_kl_weight(weight, kl=10.0, budget=0.5, rate=1.0)
    assert weight == 1e6
    for _ in range(1000):
        weight = next_kl_weight(weight, kl=0.0, budget=0.5, rate=1.0)
    assert weight == 1e-6
    assert next_kl_weight(0.37, 10.0, 0.5, 0.0) == 0.37
    assert next_kl_weight(0.0, 10.0, 0.5, 0.0) == 0.0, "no retention stays no retention"


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(1.0)
    one = torch.tensor([1e-6, 1e-6, 1e-6, 1.0]).log()
    assert effective_sample_size(one) == pytest.approx(1 / 4, rel=1e-4)
    assert effective_sample_size(torch.tensor([1.0, 3.0]).log()) == pytest.approx(16 / 20)
    assert effective_sample_size(torch.tensor([900.0, 900 + math.log(3)])) == pytest.approx(
        16 / 20, rel=1e-4
    )
    random = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert 1 / 100 <= effective_sample_size(random) <= 1


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(returns + 5, returns) == 1, "a constant error explains all variance"
    assert explained_variance(torch.zeros(4), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3), "1 - Var(2 r) / Var(r)"
    assert explained_variance(torch.rand(4), torch.ones(4)) == 0, "returns that do not vary"


def test_correlation_within_prompts_is_that_of_numpy_after_centring():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(4, (60,), generator=generator) * 7
    returns = torch.randn(60, generator=generator) + prompts
    values = 0.5 * returns + torch.randn(60, generator=generator) - 3.0 * prompts
    a, b = values.numpy().astype(float), returns.numpy().astype(float)
    for prompt in set(prompts.tolist()):
        rows = (prompts == prompt).numpy()
        a[rows], b[rows] = a[rows] - a[rows].mean(), b[rows] - b[rows].mean()
    assert correlation_within(values, returns, prompts) == pytest.approx(
        np.corrcoef(a, b)[0, 1], rel=1e-4
    )


def test_a_critic_that_only_knows_the_prompt_has_no_correlation_within():
    prompts = torch.tensor([0, 0, 1, 1])
    returns = torch.tensor([1.0, 2.0, 11.0, 12.0])
    assert correlation_within(torch.tensor([1.5, 1.5, 11.5, 11.5]), returns, prompts) == 0
    assert correlation_within(returns - 10.0 * prompts, returns, prompts) == pytest.approx(1)
    assert correlation_within(returns, torch.ones(4), prompts) == 0
    assert correlation_within(returns, returns, torch.arange(4)) == 0, (
        "one image a prompt says nothing"
    )


def test_update_kl_is_that_of_one_of_several_equal_updates_whatever_the_ages_of_the_actions():
    generator = torch.Generator().manual_seed(0)
    dimensions, std, shift = 64, 0.5, 0.05
    updates = torch.tensor([0.5, 2.0, 5.0]).repeat(20_000)
    action = std * torch.randn(len(updates), dimensions, generator=generator, dtype=torch.float64)
    exact = dimensions * shift**2 / (2 * std**2)
    log_ratio = (action.square() - (action - shift * updates[:, None]).square()).sum(dim=1) / (
        2 * std**2
    )
    for chosen in (updates == 0.5, updates == 5, updates > 0):
        assert update_kl(log_ratio[chosen], updates[chosen]) == pytest.approx(exact, rel=0.05)
    assert update_kl(torch.tensor([-3.0, 0.0]), torch.tensor([2.0, 0.0])) == 3 / 4, (
        "one that just came says nothing"
    )
    assert update_kl(torch.zeros(2), torch.zeros(2)) is None


def test_next_lr_falls_fast_and_rises_slowly():
    assert next_lr(2e-3, kl=0.2, target=0.4, lowest=1e-4, highest=3e-3) == 2e-3
    assert next_lr(3e-3, kl=0.5, target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(2e-3)
    assert next_lr(2e-3, kl=0.05, target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(2.2e-3)
    assert next_lr(1.1e-4, kl=9.0, target=0.4, lowest=1e-4, highest=3e-3) == 1e-4
    assert next_lr(2.9e-3, kl=-0.1, target=0.4, lowest=1e-4, highest=3e-3) == 3e-3
    assert next_lr(3e-3, kl=float("nan"), target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(
        2e-3
    )


def test_steps_shrink_at_the_end():
    found = [
        annealed(progress, constant=0.6, floor=0.02) for progress in (0.0, 0.3, 0.6, 0.8, 0.9, 1.0)
    ]
    assert found == pytest.approx([1, 1, 1, 0.5, 0.25, 0.02])
    assert annealed(1.0, constant=1.0, floor=0.02) == 1
    assert annealed(0.5, constant=0.0, floor=0.0) == 0.5
