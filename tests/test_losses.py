"""Losses and diagnostics: hand-checked numbers, torch.distributions, and a policy gradient that is known exactly."""

import math

import pytest
import torch

from rl_unlearn.losses import (
    clip_per_dimension,
    clipped_policy_loss,
    effective_sample_size,
    explained_variance,
    gaussian_kl,
    importance_ratio,
    joint_kl,
    next_kl_weight,
    next_lr,
    pathwise_loss,
)


def test_importance_ratio_by_hand():
    ratio = importance_ratio(torch.tensor([0.0, math.log(2), -1.0]), torch.tensor([0.0, 0.0, -1.0]))
    torch.testing.assert_close(ratio, torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("dimensions", [64, 16384])
def test_the_clip_means_the_same_joint_ratio_whatever_the_dimension(dimensions):
    # Two kernels whose joint log-ratio at some action is 1.5 (inside) and 1.7 nats (outside the clip of 1.6).
    clip = clip_per_dimension(1.6, dimensions)
    for joint, clipped in ((1.5, False), (1.7, True)):
        ratio = torch.tensor([joint / dimensions], dtype=torch.float64).exp().requires_grad_()
        (gradient,) = torch.autograd.grad(
            clipped_policy_loss(ratio, torch.ones(1, dtype=torch.float64), clip).sum(), ratio
        )
        assert (gradient.item() == 0) == clipped


def test_the_clip_divides_by_the_dimension():
    assert clip_per_dimension(1.6, 16) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.5, 2.0, -2.4, 0.0),  # good and already more likely than the clip: capped at 1.2 * 2
        (0.5, 2.0, -1.0, -2.0),  # good but less likely: pulled back, unclipped
        (1.5, -2.0, 3.0, 2.0),  # bad and more likely: pushed away, unclipped
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely than the clip: capped at 0.8 * -2
        (1.1, 2.0, -2.2, -2.0),  # inside the clip
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss, gradient):
    ratios = torch.tensor([ratio], requires_grad=True)
    result = clipped_policy_loss(ratios, torch.tensor([advantage]), 0.2)
    assert result.item() == pytest.approx(loss)
    (slope,) = torch.autograd.grad(result.sum(), ratios)
    assert slope.item() == pytest.approx(gradient)


def test_pathwise_gradient_is_minus_weight_times_action_gradient():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, 2, 2, generator=generator, requires_grad=True)
    gradients = torch.randn(3, 4, 2, 2, generator=generator)
    ratio = torch.tensor([0.5, 1.0, 9.0], requires_grad=True)
    loss = pathwise_loss(ratio, mean, gradients, clip=0.25)
    by_mean, by_ratio = torch.autograd.grad(loss.sum(), (mean, ratio), allow_unused=True)
    weights = torch.tensor([0.5, 1.0, 1.25])  # the last one truncated
    torch.testing.assert_close(by_mean, -weights[:, None, None, None] * gradients)
    assert by_ratio is None, "the weight of a replayed action is no path of the gradient"


def test_gaussian_kl_is_the_joint_one_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, reference = torch.randn(2, 3, 4, 2, 2, generator=generator)
    std = torch.tensor([0.3, 1.0, 2.5])
    wide = std[:, None, None, None].expand_as(mean)
    distributions = torch.distributions.Normal(mean, wide), torch.distributions.Normal(reference, wide)
    expected = torch.distributions.kl_divergence(*distributions).flatten(1).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mean, reference, std), expected)
    assert torch.equal(gaussian_kl(mean, mean, std), torch.zeros(3))


def test_kl_weight_rises_above_the_budget_and_falls_below():
    after = [next_kl_weight(1.0, kl, budget=0.5, rate=0.1) for kl in (0.0, 0.25, 0.5, 0.75, 1.0, 1e9)]
    assert after == sorted(after)
    assert after[0] == pytest.approx(math.exp(-0.1))
    assert after[2] == 1.0
    assert after[3] == pytest.approx(math.exp(0.05))
    assert after[4] == after[5] == pytest.approx(math.exp(0.1)), "one outlier counts as twice the budget, not more"


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
    assert effective_sample_size(torch.ones(7)) == pytest.approx(1.0)
    one = torch.tensor([1e-6, 1e-6, 1e-6, 1.0])
    assert effective_sample_size(one) == pytest.approx(1 / 4, rel=1e-4)
    assert effective_sample_size(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 20)
    random = torch.rand(100, generator=torch.Generator().manual_seed(0)) + 0.1
    assert 1 / 100 <= effective_sample_size(random) <= 1


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(returns + 5, returns) == 1, "a constant error explains all variance"
    assert explained_variance(torch.zeros(4), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3), "1 - Var(2 r) / Var(r)"
    assert explained_variance(torch.rand(4), torch.ones(4)) == 0, "returns that do not vary"


def test_joint_kl_estimates_the_kl_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    dimensions, std, shift = 64, 0.5, 0.05
    action = std * torch.randn(20_000, dimensions, generator=generator, dtype=torch.float64)
    exact = dimensions * shift**2 / (2 * std**2)
    log_ratio = (action.square() - (action - shift).square()).mean(dim=1) / (2 * std**2)
    assert joint_kl(log_ratio.exp(), dimensions) == pytest.approx(exact, rel=0.05)


def test_next_lr_falls_fast_and_rises_slowly():
    assert next_lr(2e-3, kl=0.2, target=0.4, lowest=1e-4, highest=3e-3) == 2e-3
    assert next_lr(3e-3, kl=0.5, target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(2e-3)
    assert next_lr(2e-3, kl=0.05, target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(2.2e-3)
    assert next_lr(1.1e-4, kl=9.0, target=0.4, lowest=1e-4, highest=3e-3) == 1e-4
    assert next_lr(2.9e-3, kl=-0.1, target=0.4, lowest=1e-4, highest=3e-3) == 3e-3
    assert next_lr(3e-3, kl=float("nan"), target=0.4, lowest=1e-4, highest=3e-3) == pytest.approx(2e-3)
