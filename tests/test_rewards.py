"""Rewards: hand-checked log-odds, the sign of forgetting, and which part belongs to which prompt."""

import math

import pytest
import tiny
import torch
from tiny import OBJECTS

from rl_unlearn.config import Reward
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_class, concept_probability, log_odds, outcomes, reward_weights

HALF = torch.tensor([[0.5, 0.25, 0.25]]).log()


def test_log_odds_by_hand():
    assert log_odds(HALF, torch.tensor([0]), 8.0).item() == pytest.approx(0, abs=1e-6)
    assert log_odds(HALF, torch.tensor([1]), 8.0).item() == pytest.approx(math.log(0.25 / 0.75), abs=1e-6)


def test_log_odds_keep_their_slope_where_probabilities_saturate():
    logits = torch.tensor([[12.0, 0.0, 0.0], [14.0, 0.0, 0.0]])
    odds = log_odds(logits.log_softmax(dim=1), torch.zeros(2, dtype=torch.int64), 50.0)
    torch.testing.assert_close(odds, torch.tensor([12.0, 14.0]) - math.log(2), atol=1e-4, rtol=0)


def test_log_odds_are_bounded():
    sure = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]).log_softmax(dim=1)
    assert log_odds(sure, torch.zeros(2, dtype=torch.int64), 8.0).tolist() == [8.0, -8.0]


@pytest.fixture
def evidence() -> dict[str, torch.Tensor]:
    """Three images: an obvious cat, half a cat, a dog; all in flat style with probability .8."""
    objects = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.25, 0.25], [0.01, 0.98, 0.01]])
    styles = torch.tensor([[0.8, 0.2]] * 3)
    return {"object": objects.log(), "style": styles.log()}


def rewards(
    evidence: dict[str, torch.Tensor],
    prompts: list[int],
    book: PromptBook,
    config: Reward,
    anchor: int | None = None,
) -> list[float]:
    weights = reward_weights(book, config, anchor)[torch.tensor(prompts)]
    return (outcomes(evidence, book, config.bound) * weights).sum(dim=1).tolist()


def only(**weights: float) -> Reward:
    return Reward(**({"forget": 0.0, "coherence": 0.0, "presence": 0.0, "retain": 0.0} | weights))


CATS = [0, 0, 0]  # all asked for a cat in flat style


def test_outcomes_say_everything_of_every_image(evidence):
    book = PromptBook.from_config(tiny.config())
    found = outcomes(evidence, book, 4.0)
    forget = -torch.tensor([0.9 / 0.1, 1.0, 0.01 / 0.99]).log().clamp(-4, 4)
    instead = torch.tensor([0.05, 0.25, 0.98]).log()
    torch.testing.assert_close(found[:, 0], forget, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1], instead)
    torch.testing.assert_close(found[:, 2:5], evidence["object"].clamp(min=-4))
    torch.testing.assert_close(found[:, 5:], evidence["style"])
    style = outcomes(evidence, PromptBook.from_config(tiny.config(concept="style:flat")), 4.0)
    torch.testing.assert_close(style[:, 0], torch.full((3,), -math.log(4)), atol=1e-5, rtol=0)
    assert style.shape == found.shape


def test_less_of_the_concept_is_more_reward(evidence):
    book, config = PromptBook.from_config(tiny.config()), Reward()
    found = rewards(evidence, CATS, book, config)
    assert found[0] < found[1] < found[2]
    expected = -config.forget * math.log(9) + config.coherence * math.log(0.8) + config.presence * math.log(0.05)
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_target_and_retained_prompts_have_their_own_parts(evidence):
    book = PromptBook.from_config(tiny.config())
    prompts = [1, 2, 3]  # cat in noto, dog in flat, dog in noto
    assert rewards(evidence, prompts, book, only(coherence=1.0)) == pytest.approx([math.log(0.2), 0, 0])
    assert rewards(evidence, prompts, book, only(presence=1.0)) == pytest.approx([math.log(0.05), 0, 0])
    assert rewards(evidence, prompts, book, only(forget=1.0)) == pytest.approx([-math.log(9), 0, 0], abs=1e-5)
    kept = [0, math.log(0.25) + math.log(0.8), math.log(0.98) + math.log(0.2)]
    assert rewards(evidence, prompts, book, only(retain=1.0)) == pytest.approx(kept)


def test_a_style_is_forgotten_in_the_same_way(evidence):
    book = PromptBook.from_config(tiny.config(concept="style:flat"))
    prompts = [0, 0, 3]  # cat in flat twice (targets), dog in noto
    odds = [-math.log(4), -math.log(4), 0]
    assert rewards(evidence, prompts, book, only(forget=1.0)) == pytest.approx(odds, abs=1e-5)
    rest = [math.log(0.9), math.log(0.5), 0]
    assert rewards(evidence, prompts, book, only(coherence=1.0)) == pytest.approx(rest, abs=1e-5)
    kept = [0, 0, math.log(0.2) + math.log(0.98)]
    assert rewards(evidence, prompts, book, only(retain=1.0)) == pytest.approx(kept, abs=1e-5)


def test_an_anchor_takes_the_place_of_the_likeliest_other_class(evidence):
    book = PromptBook.from_config(tiny.config())
    found = rewards(evidence, CATS, book, only(presence=1.0), anchor=OBJECTS.index("fish"))
    assert found == pytest.approx([math.log(0.05), math.log(0.25), -4.0])


CLASSES = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.1, 1.0], [1.0, 0.4]]), dim=1)


@pytest.mark.parametrize(
    ("anchor", "found"),
    [("any", None), ("dog", 1), (("fish",), 2), ("nearest", 2), (("cat", "flat", "dog"), 1), (("flat", "any"), None)],
)
def test_which_class_is_the_anchor(anchor, found):
    assert anchor_class(PromptBook.from_config(tiny.config()), Reward(anchor=anchor), CLASSES) == found


def test_the_nearest_class_is_never_the_concept_itself():
    book = PromptBook.from_config(tiny.config(concept="dog"))
    assert anchor_class(book, Reward(), CLASSES) == OBJECTS.index("fish")


@pytest.mark.parametrize(
    ("anchor", "said"),
    [("cat", "no other object"), (("noto", "cat"), "no other object"), (("fisch", "dog"), "did you mean 'fish'"),
     ("zebra", "name a class")],
)  # fmt: skip
def test_an_anchor_is_another_class_of_the_concepts_domain(anchor, said):
    with pytest.raises(ConfigError, match=f"reward.anchor .*{said}"):
        anchor_class(PromptBook.from_config(tiny.config()), Reward(anchor=anchor), CLASSES)


def test_concept_probability(evidence):
    book = PromptBook.from_config(tiny.config())
    found = concept_probability(evidence, torch.tensor([0, 2, 3]), book)
    assert found.tolist() == pytest.approx([0.9, 0.25, 0.98])
    style = PromptBook.from_config(tiny.config(concept="style:noto"))
    assert concept_probability(evidence, torch.tensor([0, 1, 3]), style).tolist() == pytest.approx([0.8, 0.2, 0.2])
