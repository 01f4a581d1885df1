"""Supervised erasers: each is what its paper's formula says, and leaves a run folder like any
other.
"""

import json
import math
from pathlib import Path

import pytest
import tiny
import tiny_families
import tiny_policies
import torch

from experiments import settings
from experiments.__main__ import main
from experiments.baselines import ca, erasing, esd, lessons, uce
from experiments.baselines.erasing import anchored
from rl_unlearn.adapters.adapter import read_adapter
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

METHODS = ("uce", "esd", "ca")
QUICK = {"steps": 3, "batch": 16, "images": 4}


def world(**changes: object) -> tuple[Config, PromptBook, DiffusionPolicy]:
    config = tiny.config(**changes)
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    return config, PromptBook.from_config(config), policy


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator("words", *shape)).double()


@pytest.mark.parametrize(("preserve", "ridge"), [(1.0, 0.1), (0.01, 3.0)])
def test_uce_minimises_what_the_paper_minimises(preserve: float, ridge: float) -> None:
    concept, anchor, kept, weight = random(5, 12), random(5, 12) + 1, random(40, 12), random(7, 12)
    found = uce.edit(concept, anchor, kept, preserve, ridge, rank=12)
    assert found.lost < 1e-9
    edited = (weight + weight @ found.left @ found.right).requires_grad_(True)
    cost = (
        (concept @ edited.T - anchor @ weight.T).square().sum()
        + preserve * (kept @ edited.T - kept @ weight.T).square().sum()
        + ridge * (edited - weight).square().sum()
    )
    (slope,) = torch.autograd.grad(cost, edited)
    assert slope.abs().max() < 1e-9 * cost.item()


def test_uce_says_what_its_rank_has_no_room_for() -> None:
    concept, anchor, kept = random(5, 12), random(5, 12) + 1, random(40, 12)
    whole = uce.edit(concept, anchor, kept, 1.0, 0.1, rank=5)
    part = uce.edit(concept, anchor, kept, 1.0, 0.1, rank=2)
    assert whole.lost < 1e-9, "five words that differ are five directions"
    wanted, held = whole.left @ whole.right, part.left @ part.right
    assert part.lost == pytest.approx(((wanted - held).norm() / wanted.norm()).item())
    assert part.left.shape == (12, 2)


@pytest.mark.parametrize(
    ("concept", "anchor", "begin"),
    [
        ([1, 8, 3, 2], [1, 9, 3, 2], (1, 1)),
        ([1, 8, 7, 3, 2], [1, 9, 3, 2], (2, 1)),
        ([1, 8, 3, 2], [1, 9, 6, 5, 3, 2], (1, 3)),
        ([1, 3, 8, 2], [1, 3, 2], (2, 1)),
    ],
    ids=["one word each", "a longer concept", "a longer anchor", "a word more"],
)
def test_prompts_are_laid_side_by_side_from_where_they_differ(
    concept: list[int], anchor: list[int], begin: tuple[int, int]
) -> None:
    assert uce.starts(concept, anchor) == begin


def test_a_concept_that_the_tokenizer_cannot_tell_from_its_anchor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"choose another reward\.anchor"):
        uce.starts([1, 2, 3], [1, 2, 3])


def test_uce_answers_the_concept_as_its_anchor_and_keeps_the_rest() -> None:
    config, book, policy = world(
        reward={"anchor": ["dog"]}, lora={"rank": 16}, erase={"ridge": 1e-6}
    )
    pairs = anchored(config, book)
    assert {(book.prompts[i].object, book.prompts[j].object) for i, j in pairs.items()} == {(0, 1)}
    assert all(book.prompts[i].style == book.prompts[j].style for i, j in pairs.items())
    state, lost = uce.erase(policy, config, book, pairs)
    told = policy.encode([prompt.text for prompt in book.prompts])
    latents = torch.randn(1, *tiny.SHAPE, generator=generator("latents"))

    def answer(prompt: int) -> torch.Tensor:
        with torch.no_grad():
            return policy.conditional(latents, 0, told[torch.tensor([prompt])])

    concept, anchor = next(iter(pairs.items()))
    before = answer(concept), answer(anchor)
    policy.load_adapter(state)
    after = answer(concept), answer(anchor)
    assert lost < 0.5
    apart = (before[0] - before[1]).norm()
    assert (after[0] - before[1]).norm() < 0.3 * apart
    assert (after[1] - before[1]).norm() < 0.3 * apart


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl"])
def test_uce_maps_the_words_of_the_concept_to_the_anchors(name: str) -> None:
    config = tiny_policies.config(
        name, reward={"anchor": ["dog"]}, lora={"rank": 32}, erase={"ridge": 1e-6, "preserve": 1e-6}
    )
    policy, book = tiny_policies.policy(config), PromptBook.from_config(config)
    pairs = anchored(config, book)
    state, _ = uce.erase(policy, config, book, pairs)
    words = policy.encode([prompt.text for prompt in book.prompts]).text.float()
    layers = [name for name in state if name.endswith("attn2.to_k.lora_A.weight")]
    assert layers
    weights = dict(policy.network.named_parameters())
    concept, anchor = next(iter(pairs.items()))
    tokens = [
        policy.family.pipeline.tokenizer(book.prompts[i].text).input_ids for i in (concept, anchor)
    ]
    first, begin = uce.starts(*tokens)
    assert first == begin, "every letter is a token, and both names have three"
    asked, its = words[concept, first:], words[anchor, first:]
    for down in layers:
        layer = down.removesuffix(".lora_A.weight")
        weight = weights[f"{layer}.base_layer.weight"].detach().float()
        edited = weight + state[f"{layer}.lora_B.weight"] @ state[down]
        left = (asked @ edited.T - its @ weight.T).norm() / ((asked - its) @ weight.T).norm()
        assert left < 0.6, "more words than a tiny network has features"


def test_uce_refuses_a_network_without_words_in_its_cross_attention() -> None:
    config = tiny_policies.config("sd3", lora={"rank": 2})
    policy = tiny_policies.policy(config)
    book = PromptBook.from_config(config)
    with pytest.raises(ConfigError, match=r"erase\.method=uce .*: use esd or ca"):
        uce.erase(policy, config, book, {})


def test_a_lesson_of_esd_is_guided_away_from_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    config, book, policy = world(erase=QUICK | {"negative": 1.5, "retained": 0.5})
    given = []
    monkeypatch.setattr(
        esd, "learn", lambda policy, config, lesson: iter([given.append(lesson(0)) or 0.0])
    )
    assert list(esd.erase(policy, config, book)) == [0.0]
    lesson = given[0]
    steps = len(policy.kernel)
    away = 2 * steps
    assert lesson.steps.tolist()[:away] == [*range(steps)] * 2
    assert len(lesson.steps) == away + 8, "half of the batch is retained"
    with torch.no_grad(), policy.adapter_enabled(False):
        nothing = policy.encode([""]).expand(len(lesson.steps))
        free = policy.conditional(lesson.noisy, lesson.steps, nothing)
        asked = policy.conditional(lesson.noisy, lesson.steps, lesson.told)
    torch.testing.assert_close(lesson.wanted[:away], (2.5 * free - 1.5 * asked)[:away])
    torch.testing.assert_close(lesson.wanted[away:], asked[away:])


def test_a_lesson_of_ca_is_the_anchors_answer_under_the_concepts_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, book, policy = world(erase=QUICK, reward={"anchor": ["fish"]})
    given = []
    monkeypatch.setattr(
        ca, "learn", lambda policy, config, lesson: iter([given.append(lesson(0)) or 0.0])
    )
    pairs = anchored(config, book)
    list(ca.erase(policy, config, book, pairs))
    lesson, told = given[0], policy.encode([prompt.text for prompt in book.prompts])
    place = {words.numpy().tobytes(): i for i, words in enumerate(told.text)}
    asked = [place[words.numpy().tobytes()] for words in lesson.told.text]
    assert sum(i in pairs for i in asked) == 8
    answers = told[torch.tensor([pairs.get(i, i) for i in asked])]
    with torch.no_grad(), policy.adapter_enabled(False):
        wanted = policy.conditional(lesson.noisy, lesson.steps, answers)
    torch.testing.assert_close(lesson.wanted, wanted)


@pytest.mark.parametrize("method", ["esd", "ca"])
def test_lessons_are_learned(method: str) -> None:
    config, book, policy = world(erase=QUICK | {"steps": 30, "lr": 0.02, "retained": 0.25})
    erased = (
        ca.erase(policy, config, book, anchored(config, book))
        if method == "ca"
        else esd.erase(policy, config, book)
    )
    losses = list(erased)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_microbatches_change_nothing_but_rounding() -> None:
    states = []
    for rows in (5, 16):
        config, book, policy = world(erase=QUICK | {"steps": 1}, learner={"microbatch": rows})
        list(ca.erase(policy, config, book, anchored(config, book)))
        states.append(policy.adapter_state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-6)


def test_images_are_counted_as_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = DiffusionPolicy.rollout

    def rollout(policy, condition, seeds):
        drawn.append(len(seeds))
        return real(policy, condition, seeds)

    monkeypatch.setattr(DiffusionPolicy, "rollout", rollout)
    for method in METHODS:
        for retained in (0.0, 0.5):
            drawn.clear()
            erase = QUICK | {"method": method, "retained": retained}
            result = erasing.erase(tiny.config(erase=erase), lambda _: None)
            assert result.images == sum(drawn)
            assert result.updates == (0 if method == "uce" else 3)


@pytest.mark.parametrize("name", [*tiny_families.FOLDERS])
def test_every_family_learns_lessons(name: str) -> None:
    config = tiny_policies.config(
        name, lora={"rank": 2}, erase=QUICK | {"steps": 1, "images": 2, "batch": 8}
    )
    policy, book = tiny_policies.policy(config), PromptBook.from_config(config)
    before = policy.adapter_state()
    for losses in (ca.erase(policy, config, book, anchored(config, book)),
                   esd.erase(policy, config, book)):  # fmt: skip
        assert all(math.isfinite(loss) for loss in losses)
        after = policy.adapter_state()
        assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
        before = after


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_lessons_are_learned_in_half_precision(dtype: str) -> None:
    config, book, policy = world(model={"path": str(tiny.pipeline_folder()), "dtype": dtype},
                                 erase=QUICK)  # fmt: skip
    losses = list(ca.erase(policy, config, book, anchored(config, book)))
    assert all(math.isfinite(loss) for loss in losses)
    assert any(t.any() for name, t in policy.adapter_state().items() if "lora_B" in name)


@pytest.mark.parametrize("method", METHODS)
def test_an_erasure_repeats_and_cannot_be_gone_on_with(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny.config(output=str(tmp_path / "out"), erase=QUICK, tensorboard=False)
    file = tmp_path / "config.yaml"
    file.write_text(settings.dump(config))
    erase = ["erase", "--config", str(file), "--method", method, "--no-evaluate"]
    assert main(erase) == 0
    folder = tmp_path / "out" / f"cat-{method}-seed0"
    assert main(erase) == 2, "nothing is replaced"
    assert main([*erase, "--name", "again"]) == 0
    first, second = (read_adapter(folder.parent / name) for name in (folder.name, "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(tensor.any() for name, tensor in first.items() if "lora_B" in name)
    capfd.readouterr()
    assert main(["resume", str(folder)]) == 2
    assert f"is of a supervised eraser ({method})" in capfd.readouterr().err


def test_an_erasure_is_a_run_like_any_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny.config(
        output=str(tmp_path / "out"), erase=QUICK, tensorboard=False,
        evaluation={"judge": str(tiny.clip_folder(2)), "resamples": 100},
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(settings.dump(config))
    assert main(["erase", "--config", str(file), "--method", "ca", "--json"]) == 0
    outcome = json.loads(capfd.readouterr().out)
    folder = Path(outcome["run"])
    assert json.loads((folder / "run_state.json").read_text())["state"] == "finished"
    assert {"report.html", "evaluation.json", "samples.png"} <= {p.name for p in folder.iterdir()}
    card = (folder / "adapter" / "README.md").read_text()
    assert "Concept Ablation" in card
    assert "reinforcement" not in card
    row = outcome["models"][1]
    assert row["anchor"]["low"] <= row["anchor"]["value"] <= row["anchor"]["high"]
    assert row["spread"] > 0
    assert main(["evaluate", str(folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["models"][1]["anchor"] == row["anchor"]


def test_untouched_answers_are_those_without_the_adapter() -> None:
    _, _, policy = world()
    noisy = torch.randn(5, *tiny.SHAPE, generator=generator("noisy"))
    told, steps = policy.encode(tiny_policies.PROMPTS[:1]).expand(5), torch.arange(5) % 4
    state = {name: torch.ones_like(tensor) for name, tensor in policy.adapter_state().items()}
    before = lessons.untouched(policy, noisy, steps, told, 5)
    policy.load_adapter(state)
    torch.testing.assert_close(lessons.untouched(policy, noisy, steps, told, 2), before)
