"""The statistics of the gradient benchmark, on gradients whose mean is known."""

import torch

from experiments.benchmarks.gradients import squared_mean


def test_the_squared_length_of_a_mean_is_estimated_without_bias_and_its_error_is_honest():
    draw = torch.Generator().manual_seed(0)
    mean = torch.full(
        (50,), 0.3, dtype=torch.float64
    )  # squared length 4.5, under noise of squared length 50
    found, errors = [], []
    for _ in range(200):
        rows = mean + torch.randn(16, 50, generator=draw, dtype=torch.float64)
        estimate, error = squared_mean(rows @ rows.T)
        found.append(estimate)
        errors.append(error)
    estimates = torch.tensor(found)
    assert abs(estimates.mean() - 4.5) < 4 * estimates.std() / 200**0.5
    assert 0.8 < torch.tensor(errors).mean() / estimates.std() < 1.25


def test_noise_that_two_gradients_share_is_no_agreement():
    draw = torch.Generator().manual_seed(0)
    one, other = torch.eye(50, dtype=torch.float64)[:2] * 3  # orthogonal means
    found = []
    for _ in range(200):
        shared = torch.randn(16, 50, generator=draw, dtype=torch.float64)
        found.append(squared_mean((one + shared) @ (other + shared).T)[0])
    estimates = torch.tensor(found)
    assert abs(estimates.mean()) < 4 * estimates.std() / 200**0.5
