"""KID and FID by torchmetrics against their formulas, in given features."""

import pytest
import torch

from rl_unlearn.evaluation.distances import distances


def gaussian(rows: int, mean: float, scale: float, seed: int) -> torch.Tensor:
    return mean + scale * torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_are_at_no_distance_and_further_ones_further():
    reference = gaussian(300, 0.0, 1.0, 0)
    near, shifted, far = (
        distances(reference, gaussian(300, mean, 1.0, 1)) for mean in (0.0, 1.0, 3.0)
    )
    assert near is not None
    assert shifted is not None
    assert far is not None
    assert near.kid == pytest.approx(0, abs=0.05)
    assert near.fid < 0.5
    assert shifted.fid == pytest.approx(8, rel=0.15), (
        "squared distance of the means in eight dimensions"
    )
    assert near.kid < shifted.kid < far.kid
    itself = distances(reference, reference)
    assert itself is not None
    assert itself.fid == pytest.approx(0, abs=1e-2)


def test_kid_is_the_unbiased_polynomial_mmd():
    reference, images = gaussian(40, 0.0, 1.0, 2), gaussian(40, 0.7, 1.3, 3)
    x, y = ((v - reference.mean(0)) / reference.std(0) for v in (reference, images))
    inside = [((v @ v.T / 8 + 1) ** 3).fill_diagonal_(0).sum() / (40 * 39) for v in (x, y)]
    across = ((x @ y.T / 8 + 1) ** 3).mean()
    found = distances(reference, images)
    assert found is not None
    assert found.kid == pytest.approx((inside[0] + inside[1] - 2 * across).item(), rel=1e-3)


def test_distances_repeat_and_leave_the_global_generator_alone():
    reference, images = gaussian(250, 0.0, 1.0, 4), gaussian(250, 0.2, 1.0, 5)
    torch.manual_seed(0)
    first = distances(reference, images, seed=1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert distances(reference, images, seed=1) == first
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


def test_one_image_has_no_distance():
    assert distances(gaussian(1, 0.0, 1.0, 0), gaussian(5, 0.0, 1.0, 1)) is None


def test_a_feature_that_never_varies_does_no_harm():
    reference = gaussian(50, 0.0, 1.0, 0)
    reference[:, 3] = 2.0
    found = distances(reference, reference.clone())
    assert found is not None
    assert found.fid == pytest.approx(0, abs=1e-2)
