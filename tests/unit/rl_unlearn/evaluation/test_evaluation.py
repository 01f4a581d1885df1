"""The images an evaluation asks for, and what judge and CLIP make of them."""

import pytest
import tiny
import torch

from rl_unlearn.clip.zeroshot import ZeroShot, load_open_clip
from rl_unlearn.config import Config
from rl_unlearn.evaluation.images import examine, plan
from rl_unlearn.evaluation.judges import Judgement, ProbabilityJudge
from rl_unlearn.prompts import PromptBook


def test_the_plan_gives_each_prompt_its_images_and_each_image_its_noise():
    config = tiny.config(evaluation={"target_images": 3, "other_images": 2})
    images = plan(PromptBook.from_config(config), config)
    assert images.prompts == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
    assert images.numbers == (0, 1, 2)
    assert len(set(images.seeds)) == 14
    assert images.texts[0] == "A cat image in flat style."
    other_run = tiny.config(seed=7, evaluation={"target_images": 3, "other_images": 2})
    assert plan(PromptBook.from_config(other_run), other_run) == images, (
        "runs are compared on the same noise"
    )
    other_noise = tiny.config(evaluation={"target_images": 3, "other_images": 2, "seed": 1})
    assert not set(plan(PromptBook.from_config(other_noise), other_noise).seeds) & set(images.seeds)


def test_the_full_canvas_protocol():
    config = Config(evaluation={"per_prompt": 5})
    images = plan(PromptBook.from_config(config), config)
    assert len(images.prompts) == 800
    assert images.numbers == (0, 1, 2, 3, 4)
    assert all(images.prompts.count(prompt) == 5 for prompt in range(160))


def test_examine_keeps_the_order_of_the_plan():
    config = tiny.config()
    book = PromptBook.from_config(config)
    clip = ZeroShot(
        *load_open_clip(str(tiny.clip_folder(1)), "selection"), book.phrases, torch.device("cpu")
    )
    images = torch.randint(
        256, (7, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def classify(pixels: torch.Tensor) -> Judgement:
        bright = pixels.mean(dim=(1, 2, 3))
        objects = torch.stack([bright, 1 - bright, torch.full_like(bright, 0.2)], dim=1)
        styles = torch.tensor([[0.25, 0.75]]).expand(len(pixels), 2)
        return Judgement({"object": objects.log(), "style": styles.log()}, pixels.flatten(1)[:, :5])

    texts = tuple(book.prompts[i % 3].text for i in range(7))
    found = examine(
        [images[:3], images[3:]], texts, ProbabilityJudge("mine", "pixels", classify), clip
    )
    bright = (images.float() / 255).mean(dim=(1, 2, 3))
    assert found.labels["object"].tolist() == [0 if b > 0.5 else 1 for b in bright.tolist()]
    assert found.sure["object"].tolist() == pytest.approx(
        [max(b, 1 - b) for b in bright.tolist()], rel=1e-4
    )
    assert found.sure["style"].tolist() == pytest.approx([0.75] * 7)
    assert torch.equal(found.features, (images.float() / 255).flatten(1)[:, :5])
    assert torch.allclose(found.embeddings.norm(dim=1), torch.ones(7), atol=1e-5)
    whole = (found.embeddings * clip.embed_texts(list(texts))).sum(dim=1)
    assert torch.allclose(found.clip_scores, 100 * whole.clamp(min=0), atol=1e-3)
