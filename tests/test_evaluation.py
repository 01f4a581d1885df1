"""UA, IRA, CRA and coherence on images whose judged labels are known."""

import pytest
import tiny
import torch

from rl_unlearn.errors import ConfigError
from rl_unlearn.evaluation import evaluate, load_judge, scores
from rl_unlearn.policy import DiffusionPolicy, load_pipeline
from rl_unlearn.prompts import PromptBook

CAT, DOG, FISH = 0, 1, 2
FLAT, NOTO = 0, 1


def test_scores_of_an_object():
    book = PromptBook.from_config(tiny.config())
    # prompt, object seen, style seen
    images = [
        (0, CAT, FLAT), (0, DOG, FLAT), (0, DOG, NOTO), (1, FISH, NOTO),  # four cats, three forgotten, one broken style
        (2, DOG, FLAT), (2, DOG, NOTO), (3, DOG, NOTO), (3, CAT, NOTO),  # dogs: 3 of 4
        (4, FISH, FLAT), (5, CAT, FLAT),  # fish: 1 of 2
    ]  # fmt: skip
    prompts, objects, styles = (torch.tensor(column) for column in zip(*images, strict=True))
    result = scores({"object": objects, "style": styles}, prompts, book)
    assert result.ua == pytest.approx(75)
    assert result.ira == pytest.approx((75 + 50) / 2), "the mean over concepts, not over images (4 of 6)"
    assert result.cra == pytest.approx(100 * 4 / 6)
    assert result.coherence == pytest.approx(75)
    assert result.counts == {"target_images": 4, "other_images": 6}
    assert result.by_concept == pytest.approx({"cat": 25, "dog": 75, "fish": 50})
    assert result.seen_as == {"dog": 2, "cat": 1, "fish": 1}
    assert next(iter(result.seen_as)) == "dog"
    assert result.headline() == {"ua": result.ua, "ira": result.ira, "cra": result.cra, "coherence": result.coherence}


def test_scores_of_a_style():
    book = PromptBook.from_config(tiny.config(concept="style:noto"))
    images = [
        (1, CAT, NOTO), (3, DOG, FLAT), (5, CAT, FLAT), (5, FISH, FLAT),  # noto: 3 of 4 forgotten, 3 of 4 objects kept
        (0, CAT, FLAT), (2, FISH, NOTO), (4, FISH, FLAT), (4, DOG, FLAT),  # flat: 3 of 4, objects 2 of 4
    ]  # fmt: skip
    prompts, objects, styles = (torch.tensor(column) for column in zip(*images, strict=True))
    result = scores({"object": objects, "style": styles}, prompts, book)
    assert (result.ua, result.ira, result.cra, result.coherence) == pytest.approx((75, 75, 50, 75))
    assert result.by_concept == pytest.approx({"flat": 75, "noto": 25})
    assert result.seen_as == {"flat": 3, "noto": 1}


def test_a_perfect_and_a_destroyed_model():
    book = PromptBook.from_config(tiny.config())
    prompts = torch.arange(6).repeat(3)
    asked = {d: torch.tensor([getattr(book.prompts[i], d) for i in prompts.tolist()]) for d in ("object", "style")}
    untouched = scores(asked, prompts, book)
    assert (untouched.ua, untouched.ira, untouched.cra, untouched.coherence) == (0, 100, 100, 100)
    nothing = {"object": torch.full((18,), DOG), "style": torch.full((18,), FLAT)}
    destroyed = scores(nothing, prompts, book)
    assert (destroyed.ua, destroyed.ira, destroyed.cra, destroyed.coherence) == (100, 50, 50, 50)


def test_evaluate_samples_the_plan_with_the_same_noise_each_time():
    config = tiny.config(evaluation={"target_images": 3, "other_images": 2, "batch": 5})
    book = PromptBook.from_config(config)
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    seen, steps = [], []

    def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(images)
        nothing = torch.zeros(len(images), dtype=torch.int64)
        return {"object": nothing, "style": nothing}

    result = evaluate(policy, book, judge, config, lambda done, total: steps.append((done, total)))
    assert result.counts == {"target_images": 6, "other_images": 8}
    assert steps == [(5, 14), (10, 14), (14, 14)]
    assert [len(images) for images in seen] == [5, 5, 4]
    first = torch.cat(seen)
    assert len(torch.unique(first.flatten(1), dim=0)) == 14, "two images of the plan share their noise"
    seen.clear()
    evaluate(policy, book, judge, config)
    assert torch.equal(torch.cat(seen), first)


def test_a_judge_must_not_have_trained():
    clip = str(tiny.clip_folder(0))
    with pytest.raises(ConfigError, match="another network"):
        load_judge(tiny.config(evaluation={"judge": clip}))
    with pytest.raises(ConfigError, match="another network"):
        load_judge(tiny.config(evaluation={"judge": str(tiny.clip_folder(1))}))


def test_the_canvas_judges_know_the_canvas_only():
    with pytest.raises(ConfigError, match="canvas"):
        load_judge(tiny.config())


def test_an_open_clip_judge_gives_classes():
    judge = load_judge(tiny.config(evaluation={"judge": str(tiny.clip_folder(2))}))
    labels = judge(torch.rand(4, 3, 16, 16))
    assert {d: v.shape for d, v in labels.items()} == {"object": (4,), "style": (4,)}
    assert labels["object"].max() < 3
    assert labels["style"].max() < 2
