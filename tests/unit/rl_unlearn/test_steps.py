"""The choice of the steps that an update learns from."""

import pytest
import torch

from rl_unlearn.steps import choose_steps, chosen_of

LEARNED = torch.tensor([0, 1, 2, 4])


def test_all_of_them_by_default() -> None:
    assert torch.equal(choose_steps(3, LEARNED, 1.0, 0, 0), LEARNED.expand(3, -1))


def test_a_share_is_uniform_without_replacement_and_by_name() -> None:
    chosen = choose_steps(4000, LEARNED, 0.5, 0, 7)
    assert chosen.shape == (4000, 2)
    assert (chosen[:, 0] < chosen[:, 1]).all(), "in ascending order, none twice"
    counts = torch.bincount(chosen.flatten(), minlength=5)
    assert counts[3] == 0
    assert counts[LEARNED].tolist() == pytest.approx([2000] * 4, abs=150), "five sigma"
    assert torch.equal(chosen, choose_steps(4000, LEARNED, 0.5, 0, 7))
    assert not torch.equal(chosen, choose_steps(4000, LEARNED, 0.5, 0, 8))
    assert not torch.equal(chosen, choose_steps(4000, LEARNED, 0.5, 1, 7))


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 1), (0.6, 2), (1.0, 4)])
def test_at_least_one(share: float, count: int) -> None:
    assert chosen_of(4, share) == count
    assert choose_steps(2, LEARNED, share, 0, 0).shape == (2, count)
