"""Rewards: hand-checked log-odds, the sign of forgetting, and which part belongs to which
prompt."""

import math

import pytest
import tiny
import torch
from tiny import OBJECTS

from rl_unlearn.config import Config, Reward
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import (
    anchor_classes,
    concept_probability,
    log_odds,
    outcome_names,
    outcomes,
    reward_weights,
)


def test_log_odds_by_hand():
    found = log_odds(torch.tensor([[0.5, 0.25, 0.25]]).log(), 8.0)
    torch.testing.assert_close(
        found, torch.tensor([[0.0, -math.log(3), -math.log(3)]]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("spread", [1.0, 10.0, 60.0])
def test_log_odds_are_those_of_a_slow_sum(spread):
    logits = spread * torch.randn(
        20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    slow = torch.stack(
        [
            row[i] - torch.cat([row[:i], row[i + 1 :]]).logsumexp(0)
            for row in logits
            for i in range(7)
        ]
    )
    found = log_odds(logits.log_softmax(dim=1).float(), 300.0)
    torch.testing.assert_close(
        found, slow.reshape(20, 7).clamp(-300, 300).float(), atol=1e-4, rtol=1e-5
    )


def test_log_odds_keep_their_slope_where_probabilities_saturate():
    logits = torch.tensor([[12.0, 0.0, 0.0], [14.0, 0.0, 0.0]])
    odds = log_odds(logits.log_softmax(dim=1), 50.0)[:, 0]
    torch.testing.assert_close(odds, torch.tensor([12.0, 14.0]) - math.log(2), atol=1e-4, rtol=0)


def test_log_odds_are_bounded():
    sure = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]).log_softmax(dim=1)
    assert log_odds(sure, 8.0).tolist() == [[8.0, -8.0], [-8.0, 8.0]]
    assert log_odds(torch.zeros(1, 1), 8.0).tolist() == [[8.0]], "the only class of its domain"


def test_log_odds_of_a_long_prompt_list_stay_small():
    # Thirty images of 10,001 classes: a square of classes for each image would take 12 GB.
    found = log_odds(torch.zeros(30, 10_001).log_softmax(dim=1), 50.0)
    torch.testing.assert_close(found, torch.full_like(found, -math.log(10_000)), atol=1e-3, rtol=0)


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
    anchors: tuple[int, ...] = (1,),
) -> list[float]:
    weights = reward_weights(book, config, anchors)[torch.tensor(prompts)]
    return (outcomes(evidence, config.bound) * weights).sum(dim=1).tolist()


def only(**weights: float) -> Reward:
    return Reward(
        **(
            {"bound": 4.0, "forget": 0.0, "coherence": 0.0, "presence": 0.0, "retain": 0.0}
            | weights
        )
    )


CATS = [0, 0, 0]  # all asked for a cat in flat style


def test_outcomes_say_everything_of_every_image(evidence):
    found = outcomes(evidence, 4.0)
    assert found.shape == (3, 2 * 3 + 2 * 2)
    odds = {domain: (p.exp() / (1 - p.exp())).log().clamp(-4, 4) for domain, p in evidence.items()}
    torch.testing.assert_close(found[:, :3], odds["object"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 3:6], evidence["object"].clamp(min=-4))
    torch.testing.assert_close(found[:, 6:8], odds["style"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 8:], evidence["style"])


@pytest.mark.parametrize("concept", ["cat", "dog,fish", "style:flat"])
def test_outcomes_and_their_columns_do_not_depend_on_the_concept(concept, evidence):
    book = PromptBook.from_config(tiny.config(concept=concept))
    found = outcomes(evidence, 4.0)
    names = outcome_names(book, Reward())
    assert len(names) == found.shape[1] == reward_weights(book, Reward(), (0, 0)).shape[1]
    for domain, classes in book.names.items():
        columns = [names.index(f"log-prob {domain} {name}") for name in classes]
        torch.testing.assert_close(found[:, columns], evidence[domain].clamp(min=-4))


def test_less_of_the_concept_is_more_reward(evidence):
    book, config = PromptBook.from_config(tiny.config()), Reward()
    found = rewards(evidence, CATS, book, config)
    assert found[0] < found[1] < found[2]
    expected = (
        -config.forget * math.log(9)
        + config.coherence * math.log(0.8)
        + config.presence * math.log(0.05)
    )
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_target_and_retained_prompts_have_their_own_parts(evidence):
    book = PromptBook.from_config(tiny.config())
    prompts = [1, 2, 3]  # cat in noto, dog in flat, dog in noto
    assert rewards(evidence, prompts, book, only(coherence=1.0)) == pytest.approx(
        [math.log(0.2), 0, 0]
    )
    assert rewards(evidence, prompts, book, only(presence=1.0)) == pytest.approx(
        [math.log(0.05), 0, 0]
    )
    assert rewards(evidence, prompts, book, only(forget=1.0)) == pytest.approx(
        [-math.log(9), 0, 0], abs=1e-5
    )
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


def test_presence_asks_for_the_anchor(evidence):
    book = PromptBook.from_config(tiny.config())
    found = rewards(evidence, CATS, book, only(presence=1.0), (OBJECTS.index("fish"),))
    assert found == pytest.approx([math.log(0.05), math.log(0.25), -4.0])


def test_each_of_several_concepts_has_its_own_odds_and_anchor(evidence):
    book = PromptBook.from_config(tiny.config(concept="fish,cat"))
    anchors = (OBJECTS.index("dog"), OBJECTS.index("fish"))  # of the fish, of the cat
    prompts = [0, 4, 3]  # a cat, a fish, a dog in noto
    assert [book.prompts[i].target for i in prompts] == [True, True, False]
    forget = rewards(evidence, prompts, book, only(forget=1.0), anchors)
    assert forget == pytest.approx([-math.log(9), math.log(3), 0], abs=1e-5)
    presence = rewards(evidence, prompts, book, only(presence=1.0), anchors)
    assert presence == pytest.approx([math.log(0.05), math.log(0.25), 0])
    kept = rewards(evidence, prompts, book, only(retain=1.0), anchors)
    assert kept == pytest.approx([0, 0, math.log(0.98) + math.log(0.2)])


# The cat's nearest is the fish, the fish's the cat, the dog's the fish.
CLASSES = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.1, 1.0], [1.0, 0.4]]), dim=1)


@pytest.mark.parametrize(
    ("concept", "anchor", "found"),
    [
        ("cat", "dog", (1,)), ("cat", ("fish",), (2,)), ("cat", "nearest", (2,)),
        ("dog", "nearest", (2,)),
        ("cat", ("cat", "flat", "dog"), (1,)), ("cat,dog", "nearest", (2, 2)),
        ("cat,fish", ("cat", "nearest"), (1, 1)),
        ("cat,dog", ("dog", "fish"), (2, 2)), ("style:flat", ("cat", "noto"), (1,)),
    ],
)  # fmt: skip
def test_which_classes_are_the_anchors(concept, anchor, found):
    book = PromptBook.from_config(tiny.config(concept=concept, reward={"anchor": anchor}))
    classes = CLASSES[: len(book.names[book.concept_domain])]
    before = classes.clone()
    assert anchor_classes(book, lambda: classes) == found
    assert torch.equal(classes, before)


def test_the_canvas_has_anchors_of_its_own():
    def anchors(**changes):
        return PromptBook.from_config(Config(**changes)).anchors

    assert anchors() == ("dog", "rabbit", "nearest")
    assert anchors(prompts={"objects": ("cat", "rabbit")}) == ("rabbit", "nearest"), (
        "those that are there"
    )
    assert PromptBook.from_config(tiny.config()).anchors == ("nearest",), (
        "another world names its own"
    )


def test_the_nearest_classes_may_differ():
    book = PromptBook.from_config(
        tiny.config(concept="a,c", prompts={"objects": ("a", "b", "c", "d")})
    )
    classes = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]]), dim=1
    )
    assert anchor_classes(book, lambda: classes) == (1, 3)


@pytest.mark.parametrize(
    ("anchor", "said"),
    [("cat", "no other object"), (("noto", "cat"), "no other object"),
     (("fisch", "dog"), "did you mean 'fish'"),
     ("zebra", "name a class"), ("any", "name a class, or `nearest`")],
)  # fmt: skip
def test_an_anchor_is_another_class_of_the_concepts_domain(anchor, said):
    with pytest.raises(ConfigError, match=f"^reward.anchor .*{said}[^\n]*$"):
        PromptBook.from_config(tiny.config(reward={"anchor": anchor}))


def test_concept_probability(evidence):
    book = PromptBook.from_config(tiny.config())
    seen = outcomes(evidence, 8.0)
    found = concept_probability(evidence, torch.tensor([0, 2, 3]), book, seen)
    assert found.tolist() == pytest.approx([0.9, 0.25, 0.98])
    style = PromptBook.from_config(tiny.config(concept="style:noto"))
    found = concept_probability(evidence, torch.tensor([0, 1, 3]), style, seen)
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.2])
