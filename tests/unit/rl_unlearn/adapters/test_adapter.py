"""Adapters on disk: plain diffusers loads them, anything else is refused in one line."""

import errno
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from rl_unlearn.adapters.adapter import digest, read_adapter, save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.errors import DataError, MachineError, TrainingError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.messages import Weights
from rl_unlearn.policy import DiffusionPolicy


def trained() -> DiffusionPolicy:
    config = tiny.config(lora={"layers": "attention", "rank": 3})
    made = DiffusionPolicy(load_pipeline(config.model), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return trained()


def test_plain_diffusers_loads_what_was_saved(policy, tmp_path):
    save_adapter(tmp_path, policy.adapter_state(), tiny.config())
    pipeline = StableDiffusionPipeline.from_pretrained(tiny.pipeline_folder(), safety_checker=None)
    latents = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    embeddings = policy.encode(["A cat", "A dog", "A fish"])
    with torch.no_grad():
        t = policy.kernel.timesteps[1]
        untouched = pipeline.unet(latents, t, encoder_hidden_states=embeddings.text).sample
        pipeline.load_lora_weights(tmp_path)
        theirs = pipeline.unet(latents, t, encoder_hidden_states=embeddings.text).sample
        ours = policy.predict(latents, 1, embeddings)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, untouched, atol=1e-3), (
        "the adapter has no effect: the test has lost its point"
    )


def test_round_trip_is_bit_equal_and_describes_itself(policy, tmp_path):
    state = policy.adapter_state()
    save_adapter(tmp_path / "run" / "adapter", state, tiny.config(concept="dog", seed=7))
    for path in (
        tmp_path / "run",
        tmp_path / "run" / "adapter",
        tmp_path / "run" / "adapter" / FILE_NAME,
    ):
        read = read_adapter(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], state[k]) for k in state)
        assert digest(read) == digest(state)
    with safe_open(tmp_path / "run" / "adapter" / FILE_NAME, "pt") as file:
        metadata = file.metadata()
    assert (metadata["concept"], metadata["seed"], metadata["digest"]) == (
        "dog",
        "7",
        digest(state),
    )
    assert [f.name for f in (tmp_path / "run" / "adapter").iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        (lambda name, tensor: {} if ".lora_B." in name else {name: tensor}, "lacks one factor"),
        (lambda name, tensor: {} if ".lora_A." in name else {name: tensor}, "lacks one factor"),
        (lambda name, tensor: {name: tensor * float("nan")}, "NaN"),
        (
            lambda name, tensor: {name.replace("unet.", "lora_unet_"): tensor},
            "another kind than LoRA",
        ),
    ],
)
def test_damaged_adapters_are_explained(damage, hint, policy, tmp_path):
    whole = {f"unet.{name}": tensor for name, tensor in policy.adapter_state().items()}
    save_file(
        {k: v for name, tensor in whole.items() for k, v in damage(name, tensor).items()},
        tmp_path / FILE_NAME,
    )
    with pytest.raises(DataError, match=hint):
        read_adapter(tmp_path)


def test_a_disk_that_does_not_take_it_is_one_line_and_leaves_nothing(policy, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="No space left on device; free space and resume"):
        save_adapter(tmp_path, policy.adapter_state(), tiny.config())
    assert not list(tmp_path.iterdir())


def test_digest_sees_names_shapes_and_every_bit():
    state = {"b": torch.zeros(2, 3), "a": torch.ones(3, 2)}
    assert digest(state) == digest({"a": torch.ones(3, 2), "b": torch.zeros(2, 3)})
    assert digest(state) != digest({"a": torch.ones(3, 2), "c": torch.zeros(2, 3)})
    assert digest(state) != digest({"a": torch.ones(3, 2), "b": torch.zeros(3, 2)})
    assert digest(state) != digest({"a": torch.ones(3, 2), "b": -torch.zeros(2, 3)})


def test_a_hand_over_that_changed_nothing_is_caught(policy):
    state = policy.adapter_state()
    weights = Weights(3, state, digest(state))
    weights.verify(policy.adapter_state())
    name = next(iter(state))
    other = {**state, name: state[name] + 1e-7}
    with pytest.raises(TrainingError, match="version 3"):
        weights.verify(other)


def refused(path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_adapter(path)
    assert "\n" not in str(caught.value)


def test_missing(tmp_path):
    refused(tmp_path, "no adapter")
    refused(tmp_path / "nowhere", "no adapter")
    refused(tmp_path / "nowhere.safetensors", "no adapter")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".pkl"])
def test_a_pickle(tmp_path, suffix):
    path = tmp_path / f"adapter{suffix}"
    torch.save({"x": torch.ones(1)}, path)
    refused(path, "pickle")


def test_a_pickle_that_calls_itself_safetensors(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / FILE_NAME)
    refused(tmp_path, "not a valid safetensors")


def test_truncated(policy, tmp_path):
    save_adapter(tmp_path, policy.adapter_state(), tiny.config())
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for size in (0, 4, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(tmp_path, "not a valid safetensors")


@pytest.mark.parametrize(
    "tensors",
    [{}, {"conv.weight": torch.ones(2, 2)}, {"text_encoder.x.lora_A.weight": torch.ones(2, 2)}],
)
def test_foreign(tmp_path, tensors):
    save_file(tensors, tmp_path / FILE_NAME)
    refused(tmp_path, "no LoRA of a UNet or transformer alone")
