"""Rewards: hand-checked log-odds, the sign of forgetting, and which part belongs to which prompt."""

import math

import pytest
import tiny
import torch

from rl_unlearn.config import Reward
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import concept_probability, log_odds, log_probability, reward_parts, total_reward

HALF = torch.tensor([[0.5, 0.25, 0.25]]).log()


def test_log_odds_by_hand():
    assert log_odds(HALF, torch.tensor([0]), 8.0).item() == pytest.approx(0, abs=1e-6)
    assert log_odds(HALF, torch.tensor([1]), 8.0).item() == pytest.approx(math.log(0.25 / 0.75), abs=1e-6)


def test_log_odds_keep_their_slope_where_probabilities_saturate():
    logits = torch.tensor([[12.0, 0.0, 0.0], [14.0, 0.0, 0.0]])
    odds = log_odds(logits.log_softmax(dim=1), torch.zeros(2, dtype=torch.int64), 50.0)
    torch.testing.assert_close(odds, torch.tensor([12.0, 14.0]) - math.log(2), atol=1e-4, rtol=0)


def test_log_odds_and_log_probability_are_bounded():
    sure = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]).log_softmax(dim=1)
    first = torch.zeros(2, dtype=torch.int64)
    assert log_odds(sure, first, 8.0).tolist() == [8.0, -8.0]
    assert log_probability(sure, first, 8.0).tolist() == pytest.approx([0.0, -8.0])
    assert log_probability(HALF, torch.tensor([1]), 8.0).item() == pytest.approx(math.log(0.25))


@pytest.fixture
def evidence() -> dict[str, torch.Tensor]:
    """Three images: an obvious cat, half a cat, a dog; all in flat style with probability .8."""
    objects = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.25, 0.25], [0.01, 0.98, 0.01]])
    styles = torch.tensor([[0.8, 0.2]] * 3)
    return {"object": objects.log(), "style": styles.log()}


def test_less_of_the_concept_is_more_reward(evidence):
    book, config = PromptBook.from_config(tiny.config()), Reward()
    prompts = torch.zeros(3, dtype=torch.int64)  # all asked for a cat in flat style
    parts = reward_parts(evidence, prompts, book, config)
    rewards = total_reward(parts, config)
    assert rewards[0] < rewards[1] < rewards[2]
    expected = -torch.tensor([0.9 / 0.1, 1.0, 0.01 / 0.99]).log().clamp(-config.bound, config.bound)
    torch.testing.assert_close(parts["forget"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts["coherence"], torch.full((3,), math.log(0.8)))
    assert parts["retain"].tolist() == [0, 0, 0]
    instead = torch.tensor([0.05, 0.25, 0.98]).log()
    torch.testing.assert_close(parts["presence"], instead)
    weighted = config.forget * expected + config.coherence * math.log(0.8) + config.presence * instead
    torch.testing.assert_close(rewards, weighted, atol=1e-5, rtol=0)


def test_target_and_retained_prompts_have_their_own_parts(evidence):
    book = PromptBook.from_config(tiny.config())
    prompts = torch.tensor([1, 2, 3])  # cat in noto, dog in flat, dog in noto
    parts = reward_parts(evidence, prompts, book, Reward())
    torch.testing.assert_close(parts["coherence"], torch.tensor([math.log(0.2), 0.0, 0.0]))
    assert (parts["forget"] != 0).tolist() == [True, False, False]
    assert (parts["presence"] != 0).tolist() == [True, False, False]
    kept = torch.tensor([0.0, math.log(0.25) + math.log(0.8), math.log(0.98) + math.log(0.2)])
    torch.testing.assert_close(parts["retain"], kept)


def test_a_style_is_forgotten_in_the_same_way(evidence):
    book = PromptBook.from_config(tiny.config(concept="style:flat"))
    prompts = torch.tensor([0, 0, 3])  # cat in flat twice (targets), dog in noto
    parts = reward_parts(evidence, prompts, book, Reward())
    assert parts["forget"].tolist() == pytest.approx([-math.log(4), -math.log(4), 0], abs=1e-5)
    assert parts["coherence"].tolist() == pytest.approx([math.log(0.9), math.log(0.5), 0], abs=1e-5)
    assert parts["retain"].tolist() == pytest.approx([0, 0, math.log(0.2) + math.log(0.98)], abs=1e-5)


def test_weights_of_zero_switch_parts_off(evidence):
    book = PromptBook.from_config(tiny.config())
    config = Reward(forget=0.0, coherence=2.0, presence=0.0, retain=0.0)
    prompts = torch.tensor([0, 2, 4])
    rewards = total_reward(reward_parts(evidence, prompts, book, config), config)
    assert rewards.tolist() == pytest.approx([2 * math.log(0.8), 0, 0])


def test_concept_probability(evidence):
    book = PromptBook.from_config(tiny.config())
    found = concept_probability(evidence, torch.tensor([0, 2, 3]), book)
    assert found.tolist() == pytest.approx([0.9, 0.25, 0.98])
    style = PromptBook.from_config(tiny.config(concept="style:noto"))
    assert concept_probability(evidence, torch.tensor([0, 1, 3]), style).tolist() == pytest.approx([0.8, 0.2, 0.2])
