"""A second erasure on top of a first: the first is part of the model, and what it forgot is not
asked back.
"""

import pytest
import tiny
import torch
from safetensors.torch import save_file

from experiments import settings
from experiments.verbs import train
from rl_unlearn.adapters.adapter import save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME, metadata
from rl_unlearn.config import Model
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes, outcome_names, reward_weights

PROMPTS, SEEDS = ["A cat image in noto style.", "A dog image."], [1, 2]


def policy(config) -> DiffusionPolicy:
    return DiffusionPolicy(load_pipeline(config.model), config)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """An adapter that does something, saved as forgetting the cat."""
    config = tiny.config(concept="cat")
    made = policy(config)
    state = {
        name: 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
        for i, (name, tensor) in enumerate(made.adapter_state().items())
    }
    folder = tmp_path_factory.mktemp("first")
    save_adapter(folder / "adapter", state, config)
    made.load_adapter(state)
    return folder, made.rollout(made.encode(PROMPTS), SEEDS)[0], made


def on_top(folder, **overrides):
    return tiny.config(
        model={"path": str(tiny.pipeline_folder()), "adapters": (str(folder),)},
        concept="dog",
        **overrides,
    )


def test_a_fused_adapter_draws_what_the_loaded_one_draws(first):
    folder, expected, _ = first
    fused = policy(on_top(folder))
    latents = fused.rollout(fused.encode(PROMPTS), SEEDS)[0]
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)
    plain = policy(tiny.config())
    assert not torch.allclose(plain.rollout(plain.encode(PROMPTS), SEEDS)[0], expected, atol=1e-2)
    with fused.adapter_enabled(False):
        below = fused.rollout(fused.encode(PROMPTS), SEEDS)[0]
    torch.testing.assert_close(below, expected, atol=1e-4, rtol=1e-4)


def test_what_the_first_forgot_is_neither_wanted_back_nor_drawn_over(first):
    folder, _, _ = first
    book = PromptBook.from_config(on_top(folder))
    gone = [p.text for p in book.prompts if p.gone]
    assert gone == ["A cat image in flat style.", "A cat image in noto style."]
    assert not any(p.target for p in book.prompts if p.gone)
    config = on_top(folder)
    weights = reward_weights(book, config.reward, (2,))
    for row, prompt in zip(weights, book.prompts, strict=True):
        assert bool(row.any()) != prompt.gone
    assert all(i in book.retained for i, p in enumerate(book.prompts) if p.gone), (
        "its KL to the model as it is counts"
    )
    assert not any(p.gone for p in PromptBook.from_config(tiny.config(concept="dog")).prompts)


def test_nothing_becomes_what_the_first_forgot(first):
    folder, _, _ = first  # no cat any more; now the dog shall go
    config = on_top(folder, reward={"anchor": ("cat", "nearest")})
    book = PromptBook.from_config(config)
    classes = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])  # a dog is most like a cat
    assert anchor_classes(book, lambda: classes) == (book.names["object"].index("fish"),)
    with pytest.raises(ConfigError, match="names no other object than what is or was forgotten"):
        PromptBook.from_config(on_top(folder, reward={"anchor": ("cat", "dog")}))


def test_the_rest_of_a_target_prompt_is_not_asked_back_either(first, tmp_path):
    _, _, made = first
    save_adapter(tmp_path, made.adapter_state(), tiny.config(concept="style:noto"))
    config = on_top(tmp_path)
    book = PromptBook.from_config(config)
    weights, names = reward_weights(book, config.reward, (2,)), outcome_names(book, config.reward)
    noto = next(i for i, p in enumerate(book.prompts) if p.target and p.gone)
    assert book.prompts[noto].text == "A dog image in noto style."
    assert [names[i] for i in weights[noto].nonzero().flatten()] == [
        "log-odds object dog",
        "log-prob object fish",
    ]
    assert not book.gone, "no object was forgotten before"
    assert not any(book.prompts[i].gone for i in book.watched)
    with pytest.raises(ConfigError, match="no prompt is left to retain"):
        PromptBook.from_config(on_top(tmp_path, prompts={"styles": ("noto",)}))


def test_a_list_of_prompts_to_keep_must_not_ask_back_what_the_first_forgot(first, tmp_path):
    folder, _, _ = first
    (tmp_path / "forget.txt").write_text("a dog\n")
    (tmp_path / "keep.txt").write_text("a caterpillar\nthe Cat of a neighbour\n")
    files = {"target_file": str(tmp_path / "forget.txt"), "retain_file": str(tmp_path / "keep.txt")}
    with pytest.raises(
        ConfigError, match=r"holds 'the Cat of a neighbour', but an adapter .* forgot 'cat'"
    ):
        PromptBook.from_config(on_top(folder, prompts=files))
    (tmp_path / "keep.txt").write_text("a caterpillar\n")
    assert len(PromptBook.from_config(on_top(folder, prompts=files)).prompts) == 2


def test_the_adapter_on_top_says_what_it_stands_on(first, tmp_path):
    folder, _, made = first
    save_adapter(tmp_path, made.adapter_state(), on_top(folder))
    assert metadata(tmp_path)["adapters"] == str(folder)
    assert metadata(tmp_path)["concept"] == "dog"


def test_the_flag_stacks_runs(first, tmp_path):
    folder, _, made = first
    assert train._on_top(folder) == [f"model.adapters={folder}"]
    save_adapter(tmp_path, made.adapter_state(), on_top(folder))
    assert train._on_top(tmp_path) == [f"model.adapters={folder},{tmp_path}"]
    assert settings.load(overrides=train._on_top(tmp_path)).model.adapters == (
        str(folder),
        str(tmp_path),
    )


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    bad = {f"{layer}.lora_A.weight": torch.zeros(2, 7), f"{layer}.lora_B.weight": torch.zeros(7, 2)}
    save_file(bad, tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="does not fit the model"):
        load_pipeline(Model(path=str(tiny.pipeline_folder()), adapters=(str(tmp_path),)))
    with pytest.raises(DataError, match="no adapter at"):
        load_pipeline(Model(path=str(tiny.pipeline_folder()), adapters=("/nowhere",)))
