"""Adapters in the keys and with the metadata of other programs, for every family: written, and read
as others write.
"""

import json
from pathlib import Path

import pytest
import tiny
import tiny_families
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.__main__ import main
from experiments.export import adapters, manager_metadata
from rl_unlearn.adapters.adapter import digest, read_adapter, save_adapter
from rl_unlearn.adapters.adapter_file import FILE_NAME
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models.model_folder import latent_shape, read_layout
from rl_unlearn.policy import DiffusionPolicy

FOLDERS = tiny_families.FOLDERS | {"sdxl": lambda: tiny_families.sdxl(layers=2)}
KINDS = tiny_families.KINDS


def config(name: str, *below: Path) -> Config:
    model = {
        "path": str(FOLDERS[name]()),
        "size": tiny_families.SIZE,
        "adapters": tuple(map(str, below)),
    }
    lora = {"rank": 3, "layers": "attention"}
    return tiny.config(model=model, lora=lora, sampler={"guidance": 1.0}, name="forgetful")


def random_state(chosen: Config) -> dict[str, Tensor]:
    state = DiffusionPolicy(load_pipeline(chosen.model), chosen).adapter_state()
    draws = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=draws) / 4 for name, t in state.items()}


@torch.no_grad()
def output(pipeline: DiffusionPipeline, chosen: Config) -> Tensor:
    """What the network makes of noise, whatever is loaded into it."""
    folder = Path(chosen.model.path)
    family = family_of(folder)(pipeline, chosen.sampler, latent_shape(folder, chosen.model))
    noise = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(2))
    return family.predict(noise, family.kernel.timesteps[[0, 3]], family.encode(["a cat", "a dog"]))


def with_plain_diffusers(chosen: Config, folder: Path, file: str) -> Tensor:
    pipeline = load_pipeline(chosen.model)
    pipeline.load_lora_weights(str(folder), weight_name=file)
    return output(pipeline, chosen)


def below(name: str, *files: Path) -> Tensor:
    chosen = config(name, *files)
    return output(load_pipeline(chosen.model), chosen)


# -- written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [(name, "diffusers") for name in KINDS] + [("stable_diffusion", "kohya"), ("sdxl", "kohya")],
)
def test_plain_diffusers_reads_what_is_exported(name: str, format: str, tmp_path: Path) -> None:
    chosen = config(name)
    save_adapter(tmp_path / "adapter", random_state(chosen), chosen)
    written = Path(adapters.export(tmp_path / "adapter", format, tmp_path / "out", chosen)["file"])
    expected, found = (
        below(name, tmp_path / "adapter"),
        with_plain_diffusers(chosen, written.parent, written.name),
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (below(name) - expected).abs().max() > 1e-3, (
        "the adapter has no effect: the test has lost its point"
    )
    assert digest(read_adapter(written)) == digest(read_adapter(tmp_path / "adapter"))


def test_sdxl_has_the_names_that_its_trainer_reads(tmp_path: Path) -> None:
    """Blocks are counted through: in, two layers, resampling, two layers; the same outwards."""
    chosen = config("sdxl")
    save_adapter(tmp_path / "adapter", random_state(chosen), chosen)
    state = load_file(
        adapters.export(tmp_path / "adapter", "kohya", tmp_path / "out", chosen)["file"]
    )
    blocks = {name.partition("_transformer_blocks_")[0] for name in state}
    assert blocks == {
        "lora_unet_input_blocks_4_1", "lora_unet_input_blocks_5_1", "lora_unet_middle_block_1",
        "lora_unet_output_blocks_0_1", "lora_unet_output_blocks_1_1", "lora_unet_output_blocks_2_1",
    }  # fmt: skip
    assert {name.partition(".")[2] for name in state} == {
        "lora_down.weight",
        "lora_up.weight",
        "alpha",
    }
    assert all(float(tensor) == 3 for name, tensor in state.items() if name.endswith(".alpha"))


@pytest.mark.parametrize(("name", "kind"), [
    ("sd3", "StableDiffusion3Pipeline"), ("flux", "FluxPipeline"),
    ("qwen_image", "QwenImagePipeline"),
    ("flux2", "Flux2KleinPipeline"), ("z_image", "ZImagePipeline"), ("sana", "SanaPipeline"),
])  # fmt: skip
def test_kohya_is_refused_where_its_names_are_not_known(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(name)
    save_adapter(tmp_path / "adapter", random_state(chosen), chosen)
    line = [
        "export",
        str(tmp_path / "adapter"),
        "--format",
        "kohya",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(line) == 5
    said = capsys.readouterr().err
    assert f"kohya's keys are for UNets, and this is a {kind}: use --format diffusers" in " ".join(
        said.split()
    )
    assert not (tmp_path / "out").exists()


# -- what managers read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("stable_diffusion", "stable-diffusion-v1/lora"),
        ("sdxl", "stable-diffusion-xl-v1-base/lora"),
        ("sd3", "stable-diffusion-v3.5-medium/lora"), ("flux", "flux-1-dev/lora"),
        ("qwen_image", "Qwen-Image/lora"), ("flux2", "Flux.2-klein-4b/lora"),
        ("z_image", "z-image/lora"), ("sana", "sana/lora"),
    ],
)  # fmt: skip
def test_managers_find_what_they_look_for(name: str, architecture: str, tmp_path: Path) -> None:
    first, chosen = tmp_path / "somebody" / "first", config(name)
    save_adapter(first, random_state(chosen), chosen)
    chosen = config(name, first)
    stands_on = {"model unet/x": "1", f"model.adapters {first}": "2"}
    save_adapter(tmp_path / "adapter", random_state(config(name)), chosen, stands_on)
    format = "kohya" if name in ("stable_diffusion", "sdxl") else "diffusers"
    file = adapters.export(tmp_path / "adapter", format, tmp_path / "out", chosen)["file"]
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about["modelspec.architecture"] == architecture
    assert (about["modelspec.sai_model_spec"], about["ss_network_module"]) == (
        "1.0.0",
        "networks.lora",
    )
    assert (about["ss_network_dim"], float(about["ss_network_alpha"])) == ("3", 3.0)
    assert about["ss_output_name"] == about["modelspec.title"] == "forgetful"
    assert about["modelspec.hash_sha256"] == manager_metadata.tensors_digest(load_file(file))
    wanted = {
        "ss_base_model_version",
        "modelspec.description",
        "modelspec.date",
        "modelspec.implementation",
    }
    assert all(about.get(key) for key in wanted)
    assert json.loads(about["stands_on"]) == {"model unet/x": "1", "model.adapters 1": "2"}
    told = json.dumps(about)
    assert str(tmp_path) not in told
    assert str(FOLDERS[name]()) not in told
    assert "somebody" not in told


def test_a_name_on_the_hub_is_told() -> None:
    about = {"base_model": "owner/name", "concept": "cat"}
    assert manager_metadata.for_others(about) == about
    assert "base_model" not in manager_metadata.for_others({"base_model": "/home/somebody/model"})
    assert "base_model" not in manager_metadata.for_others({"base_model": "./gone"})


# -- of others, below a run ------------------------------------------------------------------------


def of_others(name: str, form: str, to: Path, alpha: float = 6.0) -> tuple[Path, float]:
    """A file as other trainers write it, of strength alpha / rank, and that strength."""
    chosen = config(name)
    state, prefix = random_state(chosen), read_layout(Path(chosen.model.path)).trained
    to.mkdir()
    if form == "kohya":
        save_adapter(to / "plain", state, chosen)
        file = Path(adapters.export(to / "plain", "kohya", to / "made", chosen)["file"])
        tensors = {
            k: torch.tensor(alpha) if k.endswith(".alpha") else v
            for k, v in load_file(file).items()
        }
        save_file(tensors, to / FILE_NAME)
    elif form == "beside":
        tensors = {f"{prefix}.{key}": tensor for key, tensor in state.items()}
        layers = {key.partition(".lora_")[0] for key in tensors}
        save_file(
            tensors | {f"{layer}.alpha": torch.tensor(alpha) for layer in layers}, to / FILE_NAME
        )
    else:
        said = {
            "lora_alpha": alpha,
            "r": 3,
            "target_modules": sorted({key.partition(".lora_")[0] for key in state}),
        }
        about = {
            "lora_adapter_metadata": json.dumps(
                {f"{prefix}.{key}": value for key, value in said.items()}
            )
        }
        save_file(
            {f"{prefix}.{key}": tensor for key, tensor in state.items()}, to / FILE_NAME, about
        )
    return to, alpha / 3


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in KINDS for form in ("metadata", "beside")] + [("sdxl", "kohya")],
)
def test_a_file_of_others_has_its_own_strength_below_a_run(
    name: str, form: str, tmp_path: Path
) -> None:
    folder, strength = of_others(name, form, tmp_path / "theirs")
    state = random_state(config(name))
    doubled = {key: t * strength if ".lora_B." in key else t for key, t in state.items()}
    save_adapter(tmp_path / "ours", doubled, config(name))
    found, expected = below(name, folder), below(name, tmp_path / "ours")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    save_adapter(tmp_path / "weak", state, config(name))
    assert (below(name, tmp_path / "weak") - expected).abs().max() > 1e-3, (
        "the test sees the strength"
    )
    if form != "beside":
        torch.testing.assert_close(
            with_plain_diffusers(config(name), folder, FILE_NAME), found, rtol=1e-4, atol=1e-5
        )


def flux_kohya(rank: int = 6, alpha: float = 3.0) -> dict[str, Tensor]:
    """Queries, keys and values as the one layer that they are in the first maker's FLUX; the
    network is 16 wide.
    """
    draws = torch.Generator().manual_seed(4)
    state = {}
    for side in ("img", "txt"):
        for layer, out in (("qkv", 48), ("proj", 16)):
            key = f"lora_unet_double_blocks_0_{side}_attn_{layer}"
            state[f"{key}.lora_down.weight"] = torch.randn(rank, 16, generator=draws) / 4
            state[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=draws) / 4
            state[f"{key}.alpha"] = torch.tensor(alpha)
    return state


def test_a_kohya_file_of_flux_below_a_run(tmp_path: Path) -> None:
    save_file(flux_kohya(), tmp_path / FILE_NAME)
    found = below("flux", tmp_path)
    torch.testing.assert_close(
        found, with_plain_diffusers(config("flux"), tmp_path, FILE_NAME), rtol=1e-4, atol=1e-5
    )
    state = flux_kohya()
    up, down = (
        state[f"lora_unet_double_blocks_0_txt_attn_qkv.lora_{part}.weight"]
        for part in ("up", "down")
    )
    read = read_adapter(tmp_path)
    keys = (
        read["transformer_blocks.0.attn.add_k_proj.lora_B.weight"],
        read["transformer_blocks.0.attn.add_k_proj.lora_A.weight"],
    )
    torch.testing.assert_close(keys[0] @ keys[1], 0.5 * up[16:32] @ down)
    assert (below("flux") - found).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "changes the text encoder"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_k", "changes the text encoder"),
        (
            "lora_unet_joint_blocks_0_x_block_attn_qkv",
            "Stable Diffusion 3; save it in diffusers' keys",
        ),
        ("lora_unet_single_blocks_0_linear1", "in keys that diffusers does not know"),
    ],
)
def test_what_cannot_stand_below_a_run_is_told(key: str, said: str, tmp_path: Path) -> None:
    factors = {
        f"{key}.lora_down.weight": torch.ones(2, 16),
        f"{key}.lora_up.weight": torch.ones(16, 2),
    }
    save_file(factors, tmp_path / FILE_NAME)
    with pytest.raises(DataError, match=said):
        read_adapter(tmp_path)


@pytest.mark.parametrize("prefix", ["text_encoder", "text_encoder_2"])
def test_a_text_encoders_part_is_refused_in_words(prefix: str, tmp_path: Path) -> None:
    state = {f"transformer.{name}": t for name, t in random_state(config("flux")).items()}
    layer = f"{prefix}.text_model.encoder.layers.0.self_attn.q_proj"
    extra = {
        f"{layer}.lora_A.weight": torch.ones(2, 16),
        f"{layer}.lora_B.weight": torch.ones(16, 2),
    }
    save_file(state | extra, tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="none that changes the text encoder"):
        load_pipeline(Model(path=str(FOLDERS["flux"]()), adapters=(str(tmp_path),)))
