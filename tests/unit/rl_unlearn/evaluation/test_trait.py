"""A trait under the judges: how many images of its prompts have it, and whether all that these
prompts name is still there.
"""

import dataclasses
import re

import pytest
import tiny
import torch

from rl_unlearn.evaluation.comparison import compare, measure_reference
from rl_unlearn.evaluation.images import Seen, plan
from rl_unlearn.evaluation.record import ModelRecord
from rl_unlearn.evaluation.trait_verdict import judge_trait
from rl_unlearn.evaluation.verdict import Signs
from rl_unlearn.prompts import PromptBook

CONFIG = tiny.config(
    concept="image:mine",
    prompts={"targets": ("cat",)},
    evaluation={"target_images": 4, "other_images": 2},
)
BOOK = PromptBook.from_config(CONFIG)
IMAGES = plan(BOOK, CONFIG)
TARGET = torch.tensor([BOOK.prompts[i].target for i in IMAGES.prompts])


def seen(shown: torch.Tensor, **labels: torch.Tensor) -> Seen:
    count = len(IMAGES.prompts)
    asked = {
        domain: torch.tensor([getattr(BOOK.prompts[i], domain) for i in IMAGES.prompts])
        for domain in ("object", "style")
    }
    draws = torch.Generator().manual_seed(0)
    return Seen(
        labels=asked | labels,
        sure={domain: torch.full((count,), 0.9) for domain in asked},
        log_probs={
            domain: torch.zeros(count, len(BOOK.names[domain])).log_softmax(dim=1)
            for domain in asked
        },
        features=torch.randn(count, 4, generator=draws),
        embeddings=torch.nn.functional.normalize(torch.randn(count, 6, generator=draws), dim=1),
        clip_scores=torch.full((count,), 25.0),
        shown=shown,
    )


def row_of(after: Seen) -> ModelRecord:
    half = torch.arange(len(TARGET)) % 2 == 0
    reference = measure_reference(seen(half), IMAGES, BOOK, CONFIG)
    assert reference.rates.ua.value == 50.0
    return compare("mine", after, reference, BOOK, CONFIG, "noise")[1]


def test_what_counts_is_whether_it_is_seen_on_target_prompts() -> None:
    row = row_of(seen(~TARGET))  # all others have it, which is no matter
    assert (row.ua.value, row.coherence.value, row.ira.value, row.cra.value) == (100,) * 4
    assert (row.target_object.value, row.target_style.value) == (100, 100)
    assert row.anchor is None
    assert row.verdict.startswith("Forgotten: the judge sees the trait on 0 % of the images of its")


def test_a_target_prompt_wants_its_object_and_its_style() -> None:
    first, second = TARGET.nonzero().flatten()[:2]
    objects, styles = seen(TARGET).labels["object"].clone(), seen(TARGET).labels["style"].clone()
    objects[first], styles[second] = 1, 1 - styles[second]
    row = row_of(seen(~TARGET, object=objects, style=styles))
    assert (row.target_object.value, row.target_style.value) == (87.5, 87.5)
    assert row.coherence.value == 75
    assert (row.ira.value, row.cra.value) == (100, 100), "over the other prompts"
    assert row.neighbours[0].name == "cat", "it shall go on being drawn"


SIGNS = Signs(
    ua=97.0, ua_before=52.0, coherence=99.0, coherence_before=100.0, sure=90.0, sure_before=90.0,
    similarity=80.0, stranger=40.0, ira=100.0, ira_before=100.0, cra=100.0, cra_before=100.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ({}, r"^Forgotten: .* on 3 % .*\(48 % before\).*the rest is kept"),
        ({"ua": 80.0}, "^Partly forgotten"),
        ({"ua": 60.0}, "^Not forgotten: the judge still sees the trait on 40 %"),
        ({"ua_before": 97.0, "ua": 100.0}, "^Nothing can be said: .* on 3 % of the untouched"),
        ({"coherence": 90.0}, "its prompts show less of the rest"),
        ({"ira": 80.0}, "but the rest is damaged"),
        ({"coherence": 30.0}, "^The images are broken, not the trait forgotten"),
    ],
)
def test_the_verdict_holds_it_against_the_untouched_share(signs, said: str) -> None:
    verdict = judge_trait(dataclasses.replace(SIGNS, **signs))
    assert re.search(said, verdict.sentence), verdict.sentence
    assert verdict.broken == verdict.sentence.startswith("The images are broken")
