"""What is wrong with a model is named before anything is drawn: weights, sizes, samplers, kinds."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from experiments.__main__ import main
from rl_unlearn import canvas
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.layouts import stable_diffusion
from rl_unlearn.models import model_folder
from rl_unlearn.models.tokens import TokenLimit
from rl_unlearn.policy import DiffusionPolicy

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def reweigh(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file, {"format": "pt"})


def refusals(folder: Path) -> set[str]:
    """What the look at the files says, and what loading says: the same."""
    found = set()
    for look in (
        lambda: model_folder.check(folder, Sampler()),
        lambda: load_pipeline(Model(path=str(folder))),
    ):
        with pytest.raises(DataError) as caught:
            look()
        found.add(str(caught.value))
    return found


def renamed(state: dict[str, torch.Tensor]) -> None:
    for name in list(state):
        state[f"model.{name}"] = state.pop(name)


@pytest.mark.parametrize("component", WEIGHTS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state.pop(min(state)), "lacks 1 weights, such as "),
        (
            lambda state: state.update(extra=torch.ones(1)),
            "has 1 that have no place, such as extra",
        ),
        (renamed, r"lacks \d+ weights, such as .* and has \d+ that have no place, such as model\."),
    ],
    ids=["absent", "unexpected", "renamed"],
)
def test_every_weight_has_its_place(folder: Path, component: str, damage: Any, said: str) -> None:
    reweigh(folder / component / WEIGHTS[component], damage)
    (message,) = refusals(folder)
    assert f"{component} " in message
    assert re.search(said, message)


@pytest.mark.parametrize("component", WEIGHTS)
def test_a_weight_of_another_shape_is_no_weight(folder: Path, component: str) -> None:
    reweigh(
        folder / component / WEIGHTS[component],
        lambda state: state.update({min(state): torch.ones(3, 3, 3, 7)}),
    )
    with pytest.raises(
        DataError, match=f"cannot be loaded: Cannot load|{component} has .* in another shape"
    ):
        load_pipeline(Model(path=str(folder)))


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_what_only_loading_can_see_is_seen_there(
    folder: Path, component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = stable_diffusion.LAYOUT.networks
    monkeypatch.setitem(networks, component, replace(networks[component], names=lambda _: None))
    reweigh(folder / component / WEIGHTS[component], lambda state: state.pop(min(state)))
    model_folder.check(folder, Sampler())
    with pytest.raises(DataError, match=f"{component} lacks 1 weights"):
        load_pipeline(Model(path=str(folder)))


def test_the_command_names_component_and_key(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reweigh(folder / "unet" / WEIGHTS["unet"], lambda state: state.pop("conv_in.weight"))
    line = [
        "generate",
        "--prompt",
        "a cat",
        f"model.path={folder}",
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert main(line) == 5
    assert "unet lacks 1 weights, such as conv_in.weight" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_weights_in_shards_are_looked_at_one_by_one(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    state = load_file(file)
    names = sorted(state)
    parts = {"a.safetensors": names[:50], "b.safetensors": names[50:]}
    for name, held in parts.items():
        save_file({key: state[key] for key in held}, file.parent / name, {"format": "pt"})
    file.unlink()
    index = {
        "metadata": {},
        "weight_map": {key: name for name, held in parts.items() for key in held},
    }
    (file.parent / f"{file.name}.index.json").write_text(json.dumps(index))
    model_folder.check(folder, Sampler())
    load_pipeline(Model(path=str(folder)))
    reweigh(file.parent / "b.safetensors", lambda state: state.pop(names[60]))
    assert any(f"such as {names[60]}" in message for message in refusals(folder))


def test_weights_of_a_variant_alone_are_named(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    file.rename(file.with_name("diffusion_pytorch_model.bf16.safetensors"))
    assert "only bf16: set model.variant=bf16 in unet/" in min(refusals(folder))


def test_older_spellings_are_known(folder: Path) -> None:
    def older(state: dict[str, torch.Tensor]) -> None:
        for new, old in {
            "to_q": "query",
            "to_k": "key",
            "to_v": "value",
            "to_out.0": "proj_attn",
        }.items():
            for name in [name for name in state if f".attentions.0.{new}." in name]:
                state[name.replace(new, old)] = state.pop(name)

    reweigh(folder / "vae" / WEIGHTS["vae"], older)
    words = folder / "text_encoder" / WEIGHTS["text_encoder"]
    reweigh(
        words,
        lambda state: [
            state.update({f"text_model.{name}": state.pop(name)}) for name in list(state)
        ],
    )
    reweigh(
        words,
        lambda state: state.update(
            {"text_model.embeddings.position_ids": torch.arange(tiny.CONTEXT)[None]}
        ),
    )
    model_folder.check(folder, Sampler())
    new, old = (
        load_pipeline(Model(path=str(folder))),
        load_pipeline(Model(path=str(tiny.pipeline_folder()))),
    )
    for part in ("vae", "text_encoder"):
        for a, b in zip(
            getattr(new, part).parameters(), getattr(old, part).parameters(), strict=True
        ):
            assert torch.equal(a, b)


def test_the_canvass_text_encoder_has_the_names_that_all_programs_read() -> None:
    names = load_file(canvas.pipeline_path() / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names), (
        "without it transformers 4 loads nothing"
    )


def networks() -> dict[str, tuple[str, dict[str, Any], Callable[..., torch.nn.Module]]]:
    """Configurations of Stable Diffusion at its real size."""
    encoder = ["DownEncoderBlock2D"] * 4
    return {
        "1.5": ("unet", {"cross_attention_dim": 768}, UNet2DConditionModel),
        "2.1": ("unet", {"cross_attention_dim": 1024, "use_linear_projection": True},
                UNet2DConditionModel),
        "vae": ("vae", {
            "down_block_types": encoder, "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "block_out_channels": [128, 256, 512, 512],
        }, AutoencoderKL),
        "text": ("text_encoder", {"num_hidden_layers": 12},
                 lambda **config: CLIPTextModel(CLIPTextConfig(**config))),
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
def test_the_names_are_those_of_the_libraries(name: str) -> None:
    component, config, make = networks()[name]
    with torch.device("meta"):
        network = make(**config)
    known = stable_diffusion.LAYOUT.networks[component]
    assert known.names(config) == known.known_as(network.state_dict())


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("model_index.json", {"_class_name": "WanPipeline"},
         "holds a WanPipeline: only Stable.*, FluxP"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"},
         "its text_encoder_2 is None, not"),
        ("model_index.json", {"unet": ["diffusers", "UNetSpatial"]}, "its unet is .*UNetSpatial"),
        ("model_index.json", {"text_encoder": [None, None]}, "not a CLIPTextModel"),
        ("unet/config.json", {"in_channels": 9}, "9 channels, its vae gives 4: an inpainting"),
        ("unet/config.json", {"cross_attention_dim": 24},
         "gives 16 features a token, its network reads 24"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "latent consistency model"),
        ("unet/config.json", {"sample_size": None}, "names no size"),
        ("unet/config.json", {"block_out_channels": 7}, "damaged"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"},
         "its noise is not"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"},
         "its noise is not"),
        ("scheduler/scheduler_config.json", {"_class_name": ["DDIMScheduler"]}, "damaged"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "nope"},
         "timestep_spacing is 'nope'"),
        ("vae/config.json", {"latent_channels": "4"}, "damaged"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor is 'x'"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "damaged"),
        ("unet/config.json", {"layers_per_block": 10**9}, "damaged"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"},
         "prediction_type is 'flow'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"},
         "num_train_timesteps is 'x'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon",
                                             "rescale_betas_zero_snr": True},
         "rescale_betas_zero_snr"),
    ],
)  # fmt: skip
def test_another_kind_of_model_is_told_by_its_files(
    folder: Path, file: str, values: Any, said: str
) -> None:
    change(folder / file, **values)
    assert all(re.search(said, message) for message in refusals(folder))


def test_no_part_may_be_absent(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    assert "has no tokenizer/vocab.json" in min(refusals(folder))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"_class_name": "DDIMScheduler"}, []),
        ({"_class_name": "PNDMScheduler"}, []),
        (
            {"_class_name": "EulerAncestralDiscreteScheduler"},
            ["EulerAncestralDiscreteScheduler, is replaced by DDIM"],
        ),
        ({"_class_name": "LCMScheduler"}, ["made for few steps of LCMScheduler"]),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
            ["made for few steps of Euler"],
        ),
    ],
)
def test_a_sampler_that_is_replaced_is_named(folder: Path, values: Any, said: list[str]) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **values)
    found = model_folder.check(folder, Sampler(steps=7))
    assert len(found) == len(said)
    assert all(words in line and "7 steps" in line for words, line in zip(said, found, strict=True))


def test_more_steps_than_the_model_was_made_in(folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=20)
    for steps in (20, 21):  # the first of 20 would be the 20th, counted from 0, and one more
        with pytest.raises(
            ConfigError, match=rf"sampler\.steps={steps} must be below the 20 steps"
        ):
            model_folder.check(folder, Sampler(steps=steps))
    model_folder.check(folder, Sampler(steps=19))
    config = tiny.config(model={"path": str(folder)}, sampler={"steps": 19})
    assert len(read_shape_and_kernel(config)[1]) == 19
    load_pipeline(config.model)


@pytest.mark.parametrize("values", [{"attention_head_dim": 0}, {"norm_num_groups": 3}])
def test_what_only_the_library_finds_unfit_is_one_line(
    folder: Path, values: dict[str, Any]
) -> None:
    change(folder / "unet" / "config.json", **values)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_pipeline(Model(path=str(folder)))


def test_a_tokenizer_without_a_length_has_the_encoders(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["model_max_length"]
    file.write_text(json.dumps(content))
    assert TokenLimit(folder).tokens == tiny.CONTEXT
    config = tiny.config(model={"path": str(folder)})
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    assert policy.encode(["a cat" * 30]).text.shape[1] == tiny.CONTEXT


@pytest.mark.parametrize(
    "values",
    [
        {"steps_offset": 0}, {"steps_offset": 1}, {"timestep_spacing": "trailing"},
        {"timestep_spacing": "linspace"},
        {"set_alpha_to_one": False}, {"rescale_betas_zero_snr": True,
                                      "timestep_spacing": "trailing"},
        {"_class_name": "PNDMScheduler", "steps_offset": 0},
        {"_class_name": "EulerDiscreteScheduler"},
    ],
)  # fmt: skip
def test_policy_and_critic_read_one_schedule(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **values)
    config = tiny.config(model={"path": str(folder)})
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    shape, kernel = read_shape_and_kernel(config)
    assert shape == policy.latent_shape
    for name in ("timesteps", "signal", "signal_next", "std"):
        assert torch.equal(getattr(kernel, name), getattr(policy.kernel, name)), name
    assert kernel.std.isfinite().all()
    if values.get("timestep_spacing", "leading") == "leading":
        assert kernel.timesteps.tolist() == [751, 501, 251, 1], "as plain diffusers draws"


def test_a_size_in_a_list_is_a_size(folder: Path) -> None:
    change(folder / "unet" / "config.json", sample_size=[8, 8])
    config = tiny.config(model={"path": str(folder)})
    assert DiffusionPolicy(load_pipeline(config.model), config).latent_shape == tiny.SHAPE
    assert read_shape_and_kernel(config)[0] == tiny.SHAPE


def test_a_slow_number_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "_processor_flags", lambda: {"avx2", "avx512f"})
    assert list(model_folder.check_device(Model(dtype="fp32"))) == []
    for dtype in ("bf16", "fp16"):
        (line,) = model_folder.check_device(Model(dtype=dtype, device="cpu"))
        assert "no units for it" in line
    monkeypatch.setattr(model_folder, "_processor_flags", lambda: {"avx512_bf16", "amx_fp16"})
    assert not [
        *model_folder.check_device(Model(dtype="bf16")),
        *model_folder.check_device(Model(dtype="fp16")),
    ]


def test_the_look_needs_no_torch() -> None:
    program = (
        "import sys; from rl_unlearn import canvas, prompts; from rl_unlearn.config import Config; "
        "from rl_unlearn.models import model_folder; "
        "model_folder.check(canvas.pipeline_path(), Config().sampler); "
        "prompts.PromptBook.from_config(Config()); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
