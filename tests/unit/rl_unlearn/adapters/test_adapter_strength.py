"""One strength everywhere: what a file says about its alpha holds in every place that reads it."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from experiments.export import adapters
from experiments.verbs.common import run_config
from rl_unlearn.adapters.adapter import digest, read_adapter, save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.config import Model
from rl_unlearn.errors import DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.policy import DiffusionPolicy

CONFIG = tiny.config(lora={"rank": 2, "layers": "attention"})


def factors() -> dict[str, Tensor]:
    """An adapter far from zero, in diffusers' keys without their prefix."""
    state = DiffusionPolicy(tiny.load_quickly(CONFIG.model), CONFIG).adapter_state()
    draws = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=draws) / 4 for name, t in state.items()}


@pytest.fixture(scope="module")
def four_times(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that plain diffusers writes for alpha 8 at rank 2."""
    folder = tmp_path_factory.mktemp("alpha")
    peft = {
        "unet.lora_alpha": 8,
        "unet.r": 2,
        "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    }
    about = {"format": "pt", "lora_adapter_metadata": json.dumps(peft)}
    save_file({f"unet.{name}": t for name, t in factors().items()}, folder / FILE_NAME, about)
    return folder


@pytest.fixture(scope="module")
def kohya(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapter as kohya's scripts write it, alpha 8 in a tensor of each layer."""
    file = tmp_path_factory.mktemp("kohya") / "public.safetensors"
    found = {}
    for name, tensor in factors().items():
        layer, _, factor = name.partition(".lora_")
        layer = "lora_unet_" + layer.replace(".", "_")
        found[f"{layer}.{'lora_down' if factor[0] == 'A' else 'lora_up'}.weight"] = tensor
        found[f"{layer}.alpha"] = torch.tensor(8.0)
    save_file(found, file)
    return file


@pytest.fixture(params=["four_times", "kohya"])
def file(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def output(pipeline: StableDiffusionPipeline) -> Tensor:
    draws = torch.Generator().manual_seed(2)
    latents, words = (
        torch.randn(1, *tiny.SHAPE, generator=draws),
        torch.randn(1, 5, 16, generator=draws),
    )
    return pipeline.unet(latents, 300, encoder_hidden_states=words).sample


@pytest.fixture(scope="module")
def expected(four_times: Path) -> Tensor:
    """What plain diffusers makes of the file."""
    pipeline = load_pipeline(CONFIG.model)
    pipeline.load_lora_weights(str(four_times))
    return output(pipeline)


def test_a_policy_has_the_files_strength(file: Path, expected: Tensor) -> None:
    policy = DiffusionPolicy(load_pipeline(CONFIG.model), run_config(file, tiny_overrides()))
    policy.load_adapter(read_adapter(file))
    torch.testing.assert_close(output(policy.family.pipeline), expected, rtol=1e-4, atol=1e-5)
    policy.load_adapter(read_adapter(file), scale=0.25)
    assert (output(policy.family.pipeline) - expected).abs().max() > 1e-2, (
        "the test sees the strength"
    )


def tiny_overrides() -> list[str]:
    return [f"model.path={tiny.pipeline_folder()}", "sampler.steps=4"]


def test_a_model_that_stands_on_it_has_the_files_strength(file: Path, expected: Tensor) -> None:
    below = load_pipeline(Model(path=CONFIG.model.path, adapters=(str(file),)))
    torch.testing.assert_close(output(below), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", adapters.FORMATS)
def test_every_export_has_the_files_strength(
    format: str, file: Path, expected: Tensor, tmp_path: Path
) -> None:
    out = Path(adapters.export(file, format, tmp_path / "out", CONFIG)["file"])
    pipeline = load_pipeline(CONFIG.model if format != "merged" else Model(path=str(out)))
    if format != "merged":
        pipeline.load_lora_weights(str(out.parent), weight_name=out.name)
    torch.testing.assert_close(output(pipeline), expected, rtol=1e-4, atol=1e-5)


def test_an_own_adapter_goes_through_kohya_and_back_bit_for_bit(tmp_path: Path) -> None:
    state = factors()
    save_adapter(tmp_path / "adapter", state, CONFIG)
    out = adapters.export(tmp_path, "kohya", tmp_path / "out", CONFIG)["file"]
    assert digest(read_adapter(out)) == digest(state)


def test_strength_of_rank_stabilised_adapters(four_times: Path, tmp_path: Path) -> None:
    about = {
        "lora_adapter_metadata": json.dumps(
            {"unet.lora_alpha": 8, "unet.r": 4, "unet.use_rslora": True}
        )
    }
    save_file({f"unet.{name}": t for name, t in factors().items()}, tmp_path / FILE_NAME, about)
    assert digest(read_adapter(tmp_path)) == digest(read_adapter(four_times)), "8 / sqrt(4) = 8 / 2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_unet_mid_block_attentions_0_x.dora_scale": torch.ones(1)}, "is a DoRA"),
        (
            {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2)},
            "text encoder",
        ),
        ({"lora_unet_mid_block.hada_w1_a": torch.ones(2, 2)}, "another kind than LoRA"),
        ({"lora_unet_mid_block.lora_down.weight": torch.ones(2, 2)}, "lacks one factor"),
    ],
)
def test_other_kinds_of_adapters_are_called_what_they_are(change, said, kohya, tmp_path) -> None:
    from safetensors.torch import load_file

    save_file(load_file(kohya) | change, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=said):
        read_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 2, "unet.alpha_pattern": {"mid": 3}}, "alpha_pattern"),
        ({"unet.lora_alpha": "8", "unet.r": 2}, "names no strength"),
        ({"unet.lora_alpha": 8, "unet.r": 0}, "names no strength"),
        ([], "holds no JSON object"),
    ],
)
def test_a_strength_that_cannot_be_read_is_no_guess(about, said, tmp_path) -> None:
    content = {"lora_adapter_metadata": json.dumps(about)}
    save_file({f"unet.{name}": t for name, t in factors().items()}, tmp_path / FILE_NAME, content)
    with pytest.raises(DataError, match=said):
        read_adapter(tmp_path)


def test_a_diffusers_dora_is_called_what_it_is(tmp_path) -> None:
    state = {f"unet.{name}": t for name, t in factors().items()}
    layer = next(iter(state)).partition(".lora_")[0]
    save_file(state | {f"{layer}.lora_magnitude_vector": torch.ones(8)}, tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="is a DoRA"):
        read_adapter(tmp_path)
