"""Rates on images whose judged labels are known, by hand and against the published definitions; and
their intervals.
"""

import pytest
import tiny
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from rl_unlearn import canvas
from rl_unlearn.config import Config
from rl_unlearn.evaluation.comparison import definitions
from rl_unlearn.evaluation.intervals import interval, resample, wilson
from rl_unlearn.evaluation.metrics import DEFINITIONS, by_prompt, neighbours, rates, targets
from rl_unlearn.evaluation.record import Neighbour
from rl_unlearn.prompts import PromptBook

CAT, DOG, FISH = 0, 1, 2
FLAT, NOTO = 0, 1


def columns(images):
    prompts, objects, styles = (torch.tensor(column) for column in zip(*images, strict=True))
    return {"object": objects, "style": styles}, prompts


def test_rates_of_an_object():
    book = PromptBook.from_config(tiny.config())
    # prompt, object seen, style seen; prompts 0, 1 ask for cats, 2, 3 for dogs, 4, 5 for fish, flat
    # and noto in turn
    seen, prompts = columns([
        # 3 of 4 forgotten, 1 of 4 lost its style
        (0, CAT, FLAT), (0, DOG, FLAT), (0, DOG, NOTO), (0, DOG, FLAT),
        (1, FISH, NOTO), (1, FISH, FLAT),  # 2 of 2, 1 of 2
        # dogs: 1 and 1/2; styles 1/2 and 1
        (2, DOG, FLAT), (2, DOG, NOTO), (3, DOG, NOTO), (3, CAT, NOTO),
        (4, FISH, FLAT), (5, CAT, FLAT),  # fish: 1 and 0; styles 1 and 0
    ])  # fmt: skip
    found = rates(seen, prompts, book)
    assert found.ua.value == pytest.approx(100 * (3 / 4 + 1) / 2), (
        "each prompt counts the same, not each image (5 of 6)"
    )
    assert found.coherence.value == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert found.ira.value == pytest.approx((75 + 50) / 2)
    assert found.ira_all.value == pytest.approx((12.5 + 75 + 50) / 3), (
        "cats are still seen on 1/4 and 0 of their images"
    )
    assert found.cra.value == pytest.approx(100 * (1 / 2 + 1 + 1 + 0) / 4)
    assert found.cra_all.value == pytest.approx(100 * (3 / 4 + 1 / 2 + 1 / 2 + 1 + 1 + 0) / 6)
    assert found.counts == {"target_images": 6, "other_images": 6}
    assert found.seen_when_asked["object"] == {
        "cat": pytest.approx(
            {"cat": 12.5, "dog": 37.5, "fish": 50}
        ),  # 1/4 and 0, 3/4 and 0, 0 and 1
        "dog": pytest.approx({"dog": 75, "cat": 25}),
        "fish": pytest.approx({"fish": 50, "cat": 50}),
    }
    assert found.seen_when_asked["style"] == {
        "flat": pytest.approx({"flat": 75, "noto": 25}),  # dogs 1/2 and 1/2, fish 1 and 0
        "noto": pytest.approx({"noto": 50, "flat": 50}),
    }
    assert found.by_concept["object"] == pytest.approx({"cat": 12.5, "dog": 75, "fish": 50})
    assert found.by_concept["style"] == pytest.approx({"flat": 75, "noto": 50}), (
        "the cats' images are left out"
    )
    assert found.seen_as == {"dog": 3, "fish": 2, "cat": 1}
    assert list(found.seen_as) == ["dog", "fish", "cat"]
    assert found.headline() == {
        k: getattr(found, k).value for k in ("ua", "ira", "cra", "coherence")
    }
    assert set(found.intervals()) | {"ira_near", "ira_far", "interval"} == set(DEFINITIONS)
    split = rates(seen, prompts, book, near={DOG})
    assert split.ira_near is not None
    assert split.ira_near.value == pytest.approx(75)
    assert split.ira_far is not None
    assert split.ira_far.value == pytest.approx(50)
    assert set(split.intervals()) | {"interval"} == set(DEFINITIONS)
    assert rates(seen, prompts, book, near={DOG, FISH}).ira_far is None


def test_rates_of_a_style():
    book = PromptBook.from_config(tiny.config(concept="style:noto"))
    seen, prompts = columns([
        # noto: 0, 1, 1 forgotten; objects 1, 1, 1/2
        (1, CAT, NOTO), (3, DOG, FLAT), (5, CAT, FLAT), (5, FISH, FLAT),
        # flat: 1, 0, 1; objects 1, 0, 1/2
        (0, CAT, FLAT), (2, FISH, NOTO), (4, FISH, FLAT), (4, DOG, FLAT),
    ])  # fmt: skip
    found = rates(seen, prompts, book)
    assert found.ua.value == pytest.approx(200 / 3)
    assert found.coherence.value == pytest.approx(250 / 3)
    assert found.ira.value == pytest.approx(200 / 3)
    assert found.ira_all.value == pytest.approx((200 / 3 + 100 / 3) / 2)
    assert found.cra.value == pytest.approx(50)
    assert found.cra_all.value == pytest.approx((250 / 3 + 50) / 2)
    assert found.seen_when_asked == {
        "object": {
            "cat": pytest.approx({"cat": 100}),
            "dog": pytest.approx({"fish": 100}),
            "fish": pytest.approx({"fish": 50, "dog": 50}),
        },
        "style": {
            "flat": pytest.approx({"flat": 200 / 3, "noto": 100 / 3}),
            "noto": pytest.approx({"noto": 100 / 3, "flat": 200 / 3}),
        },
    }
    assert found.by_concept == {
        "object": pytest.approx({"cat": 100, "dog": 0, "fish": 50}),
        "style": pytest.approx({"flat": 200 / 3, "noto": 100 / 3}),
    }
    assert found.seen_as == {"flat": 3, "noto": 1}


def test_any_of_several_concepts_is_not_forgotten():
    book = PromptBook.from_config(tiny.config(concept="cat,fish"))
    seen, prompts = columns([
        # cats: 1 of 2, and 2 that became fish
        (0, CAT, FLAT), (0, DOG, FLAT), (1, FISH, NOTO), (1, FISH, FLAT),
        # fish: forgotten, one that became a cat and one forgotten
        (4, DOG, FLAT), (5, CAT, NOTO), (5, DOG, NOTO),
        (2, DOG, FLAT), (3, FISH, NOTO),  # dogs: right and wrong
    ])  # fmt: skip
    found = rates(seen, prompts, book)
    assert found.ua.value == pytest.approx(100 * (1 / 2 + 0 + 1 + 1 / 2) / 4)
    assert found.ira.value == pytest.approx(50), "dogs alone are to be kept"
    assert found.ira_all.value == pytest.approx((25 + 50 + 0) / 3)
    assert found.coherence.value == pytest.approx(100 * (1 + 1 / 2 + 1 + 1) / 4)
    assert found.cra.value == pytest.approx(100)
    assert found.seen_as == {"dog": 3, "fish": 2, "cat": 2}
    assert found.counts == {"target_images": 7, "other_images": 2}
    assert [row.name for row in neighbours(found, found, book)] == ["dog", "flat", "noto"]


@pytest.mark.parametrize("concept", ["frog", "style:monotone"])
def test_the_full_protocol_agrees_with_the_published_definitions(concept):
    """UnlearnCanvas: a 20 x 8 x 5 table of right and wrong for each domain, averaged by NumPy over
    its rows.
    """
    book = PromptBook.from_config(Config(concept=concept))
    random = torch.Generator().manual_seed(0)
    prompts = torch.arange(160).repeat_interleave(5)
    seen = {
        "object": torch.randint(20, (800,), generator=random),
        "style": torch.randint(8, (800,), generator=random)
    }  # fmt: skip
    asked = {
        "object": torch.arange(20).repeat_interleave(40),
        "style": torch.arange(8).repeat_interleave(5).repeat(20),
    }
    seen = {
        d: torch.where(torch.rand(800, generator=random) < 0.6, asked[d], seen[d]) for d in seen
    }
    own, other = (0, 1) if ":" not in concept else (1, 0)
    table = [(seen[d] == asked[d]).double().reshape(20, 8, 5).numpy() for d in ("object", "style")]
    row = (canvas.OBJECTS, canvas.STYLES)[own].index(concept.partition(":")[2] or concept)
    axes = tuple({0, 1, 2} - {own})
    by_class = table[own].mean(axis=axes)  # accuracy of each class of the concept's domain
    rest = [i for i in range(len(by_class)) if i != row]
    kept, whole = table[other].take(rest, axis=own), table[other]
    found = rates(seen, prompts, book)
    expected = {
        "ua": 1 - by_class[row], "ira": by_class[rest].mean(), "ira_all": by_class.mean(),
        "cra": kept.mean(), "cra_all": whole.mean(), "coherence": whole.take(row, axis=own).mean(),
    }  # fmt: skip
    assert {name: value.value for name, value in found.intervals().items()} == pytest.approx(
        {name: 100 * value for name, value in expected.items()}
    )
    domains = ("object", "style")
    for domain, names in zip(domains, (canvas.OBJECTS, canvas.STYLES), strict=True):
        kept = (
            torch.ones(800, dtype=torch.bool)
            if domain == domains[own]
            else asked[domains[own]] != row
        )
        table = multiclass_confusion_matrix(
            seen[domain][kept], asked[domain][kept], len(names), normalize="true"
        )
        for name, shares in zip(names, (100 * table).tolist(), strict=True):
            seen_as = found.seen_when_asked[domain][name]
            assert [seen_as.get(other, 0) for other in names] == pytest.approx(shares, abs=1e-4)
            assert min(seen_as.values()) > 0, "what never occurs takes no room"
    for value in found.intervals().values():
        assert value.low < value.value < value.high
        assert value.high - value.low < 35


def test_a_perfect_and_a_destroyed_model():
    book = PromptBook.from_config(tiny.config())
    prompts = torch.arange(6).repeat(3)
    asked = {
        d: torch.tensor([getattr(book.prompts[i], d) for i in prompts.tolist()])
        for d in ("object", "style")
    }
    untouched = rates(asked, prompts, book)
    assert untouched.intervals() == {
        "ua": wilson(0.0, 6.0), "ira": wilson(1.0, 12.0), "ira_all": wilson(1.0, 18.0),
        "cra": wilson(1.0, 12.0),
        "cra_all": wilson(1.0, 18.0), "coherence": wilson(1.0, 6.0),
    }, "images that all agree are no proof of certainty"  # fmt: skip
    assert untouched.seen_when_asked["object"] == {
        name: {name: 100} for name in ("cat", "dog", "fish")
    }
    nothing = {"object": torch.full((18,), DOG), "style": torch.full((18,), FLAT)}
    destroyed = rates(nothing, prompts, book)
    assert destroyed.seen_when_asked == {
        "object": {name: {"dog": 100} for name in ("cat", "dog", "fish")},
        "style": {"flat": {"flat": 100}, "noto": {"flat": 100}},
    }
    assert {name: value.value for name, value in destroyed.intervals().items()} == pytest.approx(
        {"ua": 100, "ira": 50, "ira_all": 100 / 3, "cra": 50, "cra_all": 50, "coherence": 50}
    )


def test_the_most_damaged_neighbour_comes_first():
    book = PromptBook.from_config(tiny.config())
    prompts = torch.arange(6)
    right = {d: torch.tensor([getattr(p, d) for p in book.prompts]) for d in ("object", "style")}
    before = rates(right, prompts, book)
    damaged = {
        "object": torch.tensor([DOG, DOG, DOG, CAT, CAT, CAT]),
        "style": right["style"].clone(),
    }
    damaged["style"][5] = FLAT
    rows = neighbours(before, rates(damaged, prompts, book), book)
    assert rows[0] == Neighbour(name="fish", before=100, after=0)
    assert [row.name for row in rows] == ["fish", "dog", "noto", "flat"], (
        "the forgotten concept is no neighbour"
    )


def test_weights_of_a_mean_over_prompts():
    prompts = torch.tensor([3, 3, 3, 5, 8])
    weights = by_prompt(prompts, torch.tensor([True, True, False, True, False]))
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 0, 1 / 2, 0])


def test_intervals_are_as_wide_as_theory_says():
    # 40 prompts of 4 images, values standard normal: the mean of 160 has a standard error of 1 /
    # sqrt(160).
    random = torch.Generator().manual_seed(1)
    prompts = torch.arange(40).repeat_interleave(4)
    every = torch.full((160,), 1 / 160, dtype=torch.float64)
    widths, held = [], 0
    for trial in range(60):
        values = torch.randn(160, generator=random)
        found = interval(values, every, resample(prompts, 400, trial))
        widths.append(found.high - found.low)
        held += found.low <= 0 <= found.high
    assert sum(widths) / 60 == pytest.approx(2 * 1.96 / 160**0.5, rel=0.05), (
        "plain resampling is 13 % narrower"
    )
    assert held >= 53, "95 % of the intervals hold the truth"


def test_resamples_stay_within_their_prompt_and_repeat():
    prompts = torch.tensor([0, 1, 1, 2, 2, 2])
    counts = resample(prompts, 500, seed=3)
    assert torch.equal(counts, resample(prompts, 500, seed=3))
    assert not torch.equal(counts, resample(prompts, 500, seed=4))
    for stratum, size in ((0, 1), (1, 2), (2, 3)):
        assert torch.allclose(
            counts[:, prompts == stratum].sum(dim=1), torch.tensor(float(size), dtype=torch.float64)
        )
    assert torch.equal(counts[:, 0], torch.ones(500, dtype=torch.float64))
    assert counts.mean(dim=0) == pytest.approx(torch.ones(6).numpy(), abs=0.15)


def test_targets_are_the_prompts_of_the_concept():
    book = PromptBook.from_config(tiny.config(concept="style:noto"))
    assert targets(torch.arange(6), book).tolist() == [False, True] * 3


def test_definitions_say_what_fits_the_run() -> None:
    of_concept, of_trait = definitions(of_trait=False), definitions(of_trait=True)
    assert "trait" not in " ".join(of_concept.values())
    assert {"anchor", "spread"} <= of_concept.keys()
    assert not {"anchor", "spread", "anchor_kid"} & of_trait.keys(), "a trait has no anchor"
    assert {"target_object", "target_style"} <= of_trait.keys()
    for name in ("ua", "coherence"):
        assert "trait" in of_trait[name]
