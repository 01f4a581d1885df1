"""One model against the untouched one: what is counted, and what is not."""

import dataclasses

import pytest
import tiny
import torch

from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.evaluation.comparison import compare, measure_reference, reference_row
from rl_unlearn.evaluation.images import Seen, plan
from rl_unlearn.evaluation.record import ModelRecord
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dog to forget on top of a style that is gone: noto's images are asked for, and count
    nowhere.
    """
    first = tiny.config(concept="style:noto")
    folder = tmp_path_factory.mktemp("first")
    save_adapter(folder, DiffusionPolicy(load_pipeline(first.model), first).adapter_state(), first)
    config = tiny.config(
        concept="dog",
        model={"path": str(tiny.pipeline_folder()), "adapters": (str(folder),)},
        evaluation={"target_images": 4, "other_images": 2},
    )
    book = PromptBook.from_config(config)
    images = plan(book, config)
    gone = torch.tensor([book.prompts[i].gone for i in images.prompts])
    assert 0 < gone.sum() < len(gone)
    assert any(book.prompts[i].gone and book.prompts[i].target for i in images.prompts)
    return config, book, images, gone


def seen_as_asked(book: PromptBook, prompts: tuple[int, ...], seed: int) -> Seen:
    """Every image is seen as it was asked for; features and CLIP's figures are noise."""
    draws = torch.Generator().manual_seed(seed)
    count = len(prompts)
    labels = {
        domain: torch.tensor([getattr(book.prompts[i], domain) for i in prompts])
        for domain in ("object", "style")
    }
    return Seen(
        labels=labels,
        sure={domain: torch.rand(count, generator=draws) for domain in labels},
        log_probs={
            domain: torch.randn(count, len(book.names[domain]), generator=draws).log_softmax(dim=1)
            for domain in labels
        },
        features=torch.randn(count, 4, generator=draws),
        embeddings=torch.nn.functional.normalize(torch.randn(count, 6, generator=draws), dim=1),
        clip_scores=100 * torch.rand(count, generator=draws),
    )


def spoiled(seen: Seen, rows: torch.Tensor) -> Seen:
    """Some images are seen otherwise, whatever the field."""
    other = {
        domain: torch.where(rows, (labels + 1) % 2, labels)
        for domain, labels in seen.labels.items()
    }
    return dataclasses.replace(
        seen,
        labels=other,
        sure={domain: torch.where(rows, 0.0, values) for domain, values in seen.sure.items()},
        log_probs={
            domain: torch.where(rows[:, None], -9.0, values)
            for domain, values in seen.log_probs.items()
        },
        features=torch.where(rows[:, None], 50.0, seen.features),
        embeddings=torch.where(rows[:, None], -seen.embeddings, seen.embeddings),
        clip_scores=torch.where(rows, 0.0, seen.clip_scores),
    )


def rows_of(world, spoil: torch.Tensor) -> list[ModelRecord]:
    config, book, images, _ = world
    before, after = (seen_as_asked(book, images.prompts, seed) for seed in (0, 1))
    reference = measure_reference(spoiled(before, spoil), images, book, config)
    _, row = compare("mine", spoiled(after, spoil), reference, book, config, "noise")
    return [reference_row(reference, book, "noise"), row]


def test_images_of_what_an_earlier_adapter_forgot_count_nowhere(world):
    gone = world[-1]
    assert rows_of(world, gone) == rows_of(world, torch.zeros_like(gone))


def test_all_others_count(world):
    gone = world[-1]
    before, after = rows_of(world, gone), rows_of(world, torch.ones_like(gone))
    for name in ("similarity", "clip_score", "confidence", "kid", "fid", "ua", "ira", "cra"):
        if name != "similarity":  # both sides are turned round
            assert getattr(before[1], name) != getattr(after[1], name), name
