"""What stands in the concept's place: the anchor, and how varied it is."""

import pytest
import tiny
import torch

from rl_unlearn.anchors import anchors_of
from rl_unlearn.evaluation.comparison import Anchor, compare, measure_reference, reference_row
from rl_unlearn.evaluation.images import Seen, plan, plan_of_anchors
from rl_unlearn.evaluation.place import Place, kernel_distance, nearest, spread
from rl_unlearn.noise import generator
from rl_unlearn.prompts import PromptBook


def place(features: torch.Tensor, prompts: list[int]) -> Place:
    return Place(torch.ones(len(features)), features, torch.tensor(prompts))


def noise(*shape: int, name: str = "place") -> torch.Tensor:
    return torch.randn(shape, generator=generator(name))


def test_spread_is_within_prompts_and_against_the_reference() -> None:
    prompts = [i // 50 for i in range(200)]
    between = noise(4, 6, name="between").repeat_interleave(50, dim=0)
    reference = place(between + noise(200, 6), prompts)
    assert spread(reference, reference) == pytest.approx(100)
    moved = place(between.flip(0) * 7 + noise(200, 6), prompts)
    assert spread(moved, reference) == pytest.approx(100), "what prompts differ in does not count"
    half = place(between + 0.5 * noise(200, 6), prompts)
    assert spread(half, reference) == pytest.approx(25)
    same = place(between, prompts)
    assert spread(same, reference) == pytest.approx(0)


def test_spread_needs_two_images_of_a_prompt() -> None:
    many = place(noise(4, 6), [0, 0, 1, 1])
    assert spread(place(noise(2, 6), [0, 1]), many) is None
    assert spread(many, place(torch.ones(4, 6), [0, 0, 1, 1])) is None
    lone = place(torch.cat([noise(4, 6), 1e3 * noise(1, 6)]), [0, 0, 1, 1, 2])
    assert spread(lone, many) == pytest.approx(100), "a lone image has no spread to show"


def test_the_distance_to_the_anchor_is_that_of_its_images() -> None:
    prompts = [i // 50 for i in range(100)]
    anchor, other = place(noise(100, 6), prompts), place(noise(100, 6, name="other") + 3, prompts)
    near, far = kernel_distance(anchor, anchor, 0), kernel_distance(other, anchor, 0)
    assert near is not None
    assert far is not None
    assert near < 0.01 < far


def test_near_neighbours_are_the_quarter_most_like_a_concept() -> None:
    angles = torch.tensor([0.0, 0.1, 0.9, 3.0, 0.2, 1.5, 2.0, 2.5, 1.2])
    classes = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest(classes, (0,), [1, 2, 3, 4, 5, 6, 7, 8]) == {1, 4}
    assert nearest(classes, (0, 3), [1, 2, 5, 6, 7, 8]) == {1, 7}
    assert nearest(classes, (0,), [5]) == {5}
    assert nearest(classes, (0,), []) == frozenset()


def test_anchors_are_those_that_the_reward_asks_for() -> None:
    config = tiny.config(concept="cat", reward={"anchor": ["fish"]})
    book = PromptBook.from_config(config)
    found = anchors_of(config, book)
    assert found.classes == {0: 2}
    assert len(found.prompts) == len(book.targets)
    for asked, anchor in found.prompts.items():
        assert book.prompts[anchor].object == 2
        assert book.prompts[anchor].style == book.prompts[asked].style
    style = tiny.config(concept="style:noto")
    book = PromptBook.from_config(style)
    for asked, anchor in anchors_of(style, book).prompts.items():
        assert book.prompts[anchor].object == book.prompts[asked].object
        assert book.names["style"][book.prompts[anchor].style] == "flat"


def test_the_anchors_images_are_as_many_as_the_concepts_with_their_own_noise() -> None:
    config = tiny.config(evaluation={"target_images": 3, "other_images": 2})
    book = PromptBook.from_config(config)
    anchors = anchors_of(config, book)
    asked, everything = plan_of_anchors(book, config, anchors), plan(book, config)
    assert len(asked.prompts) == 3 * len(set(anchors.prompts.values()))
    known = dict(zip(zip(everything.texts, everything.seeds, strict=True), range(99), strict=False))
    shared = [pair in known for pair in zip(asked.texts, asked.seeds, strict=True)]
    assert sum(shared) == 2 * len(set(anchors.prompts.values())), "the first two of each prompt"


def test_a_comparison_says_what_stands_in_the_concepts_place() -> None:
    config = tiny.config(
        reward={"anchor": ["dog"]}, evaluation={"target_images": 40, "other_images": 4}
    )
    book = PromptBook.from_config(config)
    images, anchors = plan(book, config), anchors_of(config, book)
    of_anchor = plan_of_anchors(book, config, anchors)

    def seen(prompts: tuple[int, ...], dog: float, width: float) -> Seen:
        count = len(prompts)
        objects = torch.tensor([0.0, dog, 1 - dog]).clamp(min=1e-9).log().expand(count, 3)
        labels = {
            domain: torch.tensor([getattr(book.prompts[i], domain) for i in prompts])
            for domain in ("object", "style")
        }
        return Seen(
            labels=labels,
            sure={domain: torch.full((count,), 0.9) for domain in labels},
            log_probs={"object": objects, "style": torch.zeros(count, 2)},
            features=width * noise(count, 4, name=str(width)),
            embeddings=torch.nn.functional.normalize(noise(count, 6), dim=1),
            clip_scores=torch.full((count,), 50.0),
        )

    anchor = Anchor.measured(seen(of_anchor.prompts, 0.9, 1.0), of_anchor, anchors, book, config)
    before = seen(images.prompts, 0.1, 1.0)
    reference = measure_reference(before, images, book, config, frozenset({1}), anchor)
    untouched = reference_row(reference, book, "noise")
    assert untouched.anchor is not None
    assert untouched.anchor.value == pytest.approx(90)
    assert untouched.spread is None
    assert untouched.anchor_kid is None
    _, row = compare("mine", seen(images.prompts, 0.6, 0.5), reference, book, config, "noise")
    assert row.anchor is not None
    assert row.anchor.value == pytest.approx(60)
    assert row.spread is not None
    assert row.spread.value == pytest.approx(25, rel=0.3)
    assert row.anchor_kid is not None
    assert row.ira_near is not None
    without = measure_reference(before, images, book, config)
    _, plain = compare("mine", before, without, book, config, "noise")
    assert plain.anchor is None
    assert plain.spread is None
    assert plain.ira_near is None
