"""Intervals of rates: never without width, and as wide as the images behind them allow."""

import pytest
import torch
from scipy.stats import binomtest

from rl_unlearn.evaluation.intervals import interval, rate, resample, wilson


@pytest.mark.parametrize(
    ("successes", "images"), [(0, 10), (1, 10), (5, 10), (9, 10), (10, 10), (3, 96), (96, 96)]
)
def test_wilson_agrees_with_scipy(successes: int, images: int) -> None:
    found, expected = (
        wilson(successes / images, float(images)),
        binomtest(successes, images).proportion_ci(method="wilson"),
    )
    assert found.value == pytest.approx(100 * successes / images)
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert found.low <= found.value <= found.high


def test_wilson_by_hand() -> None:
    # 8 of 10: (0.8 + 3.8415/20 +- 1.96 sqrt(0.016 + 3.8415/400)) / 1.38415
    assert wilson(0.8, 10.0).row() == pytest.approx(
        {"value": 80, "low": 49.02, "high": 94.33}, abs=0.01
    )
    # All of n: low is n / (n + 1.96 squared).
    assert wilson(1.0, 96.0).row() == pytest.approx(
        {"value": 100, "low": 100 * 96 / 99.8415, "high": 100}
    )


@pytest.mark.parametrize("agree", [True, False])
def test_images_that_all_agree_have_an_interval(agree: bool) -> None:
    prompts = torch.tensor([0, 0, 0, 1])
    weights = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2], dtype=torch.float64)
    found = rate(torch.full((4,), agree), weights, resample(prompts, 200, 0))
    assert found == wilson(float(agree), 3.0), (
        "weights of 1/6, 1/6, 1/6, 1/2 are worth 1 / (3/36 + 1/4) = 3 images"
    )


def test_images_without_weight_have_no_say() -> None:
    holds, weights = (
        torch.tensor([True, True, False]),
        torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
    )
    assert rate(holds, weights, resample(torch.tensor([0, 0, 1]), 200, 0)) == wilson(1.0, 2.0)


def test_single_images_of_prompts_that_differ_have_an_interval() -> None:
    holds, weights = torch.arange(10) < 8, torch.full((10,), 0.1, dtype=torch.float64)
    assert rate(holds, weights, resample(torch.arange(10), 200, 0)) == wilson(0.8, 10.0)


def test_where_images_differ_it_is_the_bootstrap() -> None:
    prompts = torch.arange(4).repeat_interleave(6)
    holds, weights = torch.arange(24) % 3 > 0, torch.full((24,), 1 / 24, dtype=torch.float64)
    counts = resample(prompts, 400, 0)
    assert rate(holds, weights, counts) == interval(100 * holds.double(), weights, counts)
