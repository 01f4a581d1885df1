"""Z-Image and Sana: names at real size, other models of their kind, files as others write them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny_policies import refusals
from transformers import Gemma2Config, Gemma2Model, Qwen3Config, Qwen3Model

from experiments.doctor import preflight
from experiments.plan import hollow
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.autoencoder_deep import DeepAutoencoder
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.layouts import sana, z_image
from rl_unlearn.layouts.layout import Layout
from rl_unlearn.models import foundation, model_folder

_QWEN3 = {"num_hidden_layers": 36, "hidden_size": 2560}
_GEMMA2 = {"num_hidden_layers": 26, "hidden_size": 2304}
_DEEP = {
    f"{side}_{key}": value
    for side, layers in (("encoder", [2, 2, 2, 3, 3, 3]), ("decoder", [3] * 6))
    for key, value in {
        "block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3, "layers_per_block": layers,
        "qkv_multiscales": [[], [], [], [5], [5], [5]],
        "block_out_channels": [128, 256, 512, 512, 1024, 1024],
    }.items()
} | {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}  # fmt: skip
NETWORKS: dict[str, tuple[Layout, str, dict[str, Any], Callable[..., torch.nn.Module]]] = {
    "Z-Image": (z_image.LAYOUT, "transformer", {}, ZImageTransformer2DModel),
    "Z-Image's words": (z_image.LAYOUT, "text_encoder", _QWEN3,
                        lambda **config: Qwen3Model(Qwen3Config(**config))),
    "Sana": (sana.LAYOUT, "transformer", {}, SanaTransformer2DModel),
    "Sana 1.5": (sana.LAYOUT, "transformer", {"qk_norm": "rms_norm_across_heads", "num_layers": 60,
                                              "attention_bias": True,
                                              "norm_elementwise_affine": True},
                 SanaTransformer2DModel),
    "Sana's words": (sana.LAYOUT, "text_encoder", _GEMMA2,
                     lambda **config: Gemma2Model(Gemma2Config(**config))),
    "Sana's images": (sana.LAYOUT, "vae", _DEEP, AutoencoderDC),
    "a deeper autoencoder": (sana.LAYOUT, "vae", {"encoder_layers_per_block": [0, 4, 8, 2, 2, 2],
                                                  "decoder_layers_per_block": [0, 5, 10, 2, 2, 2]},
                                                  AutoencoderDC),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_names_are_those_of_the_libraries(name: str) -> None:
    layout, component, config, make = NETWORKS[name]
    with torch.device("meta"):
        network = make(**config)
    known = layout.networks[component]
    assert known.names(config) == known.known_as(network.state_dict())


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {"z_image": tiny_families.z_image, "sana": tiny_families.sana}
    return {name: Path(shutil.copytree(make(), tmp_path / name)) for name, make in made.items()}


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "file", "values", "said"),
    [
        ("z_image", "transformer/config.json", {"siglip_feat_dim": 16}, "Z-Image-Omni"),
        ("z_image", "transformer/config.json", {"all_patch_size": [4]}, "has 6 that have no place"),
        ("z_image", "transformer/config.json", {"axes_lens": [512, 16, 16]},
         "512 places for words, not"),
        ("z_image", "tokenizer/chat_template.jinja", None, "tokenizer has no chat template"),
        ("sana", "transformer/config.json", {"guidance_embeds": True}, "Sana Sprint"),
        ("sana", "transformer/config.json", {"out_channels": 16}, "more than a velocity"),
        ("sana", "scheduler/scheduler_config.json", {"use_flow_sigmas": False},
         "DPMSolverMultistepScheduler"),
        ("sana", "scheduler/scheduler_config.json", {"prediction_type": "epsilon"},
         "DPMSolverMultistepScheduler"),
        ("sana", "scheduler/scheduler_config.json", {"use_dynamic_shifting": True},
         "DPMSolverMultistepScheduler"),
        ("sana", "scheduler/scheduler_config.json", {"flow_shift": float("inf")}, "no JSON object"),
        ("sana", "vae/config.json", {"latent_channels": 4}, "takes 8 channels, its vae gives 4"),
    ],
)  # fmt: skip
def test_another_kind_of_model_is_told_by_its_files(
    folders: dict[str, Path], name: str, file: str, values: dict[str, Any] | None, said: str
) -> None:
    if values is None:
        (folders[name] / file).unlink()
    else:
        change(folders[name] / file, **values)
    assert all(said in message for message in refusals(folders[name]))


@pytest.mark.parametrize(
    ("name", "file", "values"),
    [
        ("z_image", "text_encoder/config.json", {"head_dim": None}),
        ("z_image", "transformer/config.json", {"axes_dims": [2, 2, 2]}),
        ("sana", "text_encoder/config.json", {"num_attention_heads": 5}),
        ("sana", "transformer/config.json", {"patch_size": 0}),
    ],
)  # fmt: skip
def test_what_the_libraries_refuse_is_one_line(
    folders: dict[str, Path], name: str, file: str, values: dict[str, Any]
) -> None:
    change(folders[name] / file, **values)
    chosen = tiny.config(model={"path": str(folders[name]), "size": tiny_families.SIZE})
    for look in (lambda: load_pipeline(chosen.model), lambda: hollow.build(chosen, "cpu")):
        with pytest.raises(DataError) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_what_a_person_should_know(folders: dict[str, Path]) -> None:
    """Z-Image-Turbo's folder differs by a number, and Sana's own sampler is replaced."""

    def notes(name: str) -> list[str]:
        return model_folder.check(folders[name], Sampler(), tiny_families.SIZE)

    assert notes("z_image") == []
    change(folders["z_image"] / "scheduler" / "scheduler_config.json", shift=3.0)
    assert "as Z-Image-Turbo's is" in notes("z_image")[0]
    assert "DPMSolverMultistepScheduler, is replaced by a flow's steps" in notes("sana")[0]


@pytest.mark.parametrize(
    ("name", "size", "step"), [("z_image", (16, 18), 4), ("sana", (16, 17), 2)]
)
def test_a_size_that_cannot_be_drawn(name: str, size: tuple[int, int], step: int) -> None:
    path = str(tiny_families.FOLDERS[name]())
    with pytest.raises(ConfigError, match=f"must be multiples of {step}"):
        load_pipeline(Model(path=path, size=size))


def test_patches_without_a_place_are_told() -> None:
    with pytest.raises(ConfigError, match=r"places for \[16, 16\] patches"):
        load_pipeline(Model(path=str(tiny_families.z_image()), size=(16, 128)))


@pytest.mark.parametrize("name", ["z_image", "sana"])
def test_a_file_of_the_whole_language_model_is_read(name: str, folders: dict[str, Path]) -> None:
    """Its makers leave the name of the whole before each name."""
    whole = load_pipeline(
        Model(path=str(folders[name]), size=tiny_families.SIZE)
    ).text_encoder.state_dict()
    file = folders[name] / "text_encoder" / "model.safetensors"
    save_file(
        {f"model.{key}": value for key, value in load_file(file).items()}, file, {"format": "pt"}
    )
    found = load_pipeline(
        Model(path=str(folders[name]), size=tiny_families.SIZE)
    ).text_encoder.state_dict()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], value) for key, value in whole.items())


def test_a_template_may_stand_in_the_tokenizers_configuration(folders: dict[str, Path]) -> None:
    place = folders["z_image"] / "tokenizer"
    template = (place / "chat_template.jinja").read_text()
    stands_on = foundation.of_model(Model(path=str(folders["z_image"])))
    assert "model tokenizer/chat_template.jinja" in stands_on
    change(place / "tokenizer_config.json", chat_template=template)
    (place / "chat_template.jinja").unlink()
    model_folder.check(folders["z_image"], None, tiny_families.SIZE)
    change(place / "tokenizer_config.json", chat_template="{{ nonsense(")
    chosen = preflight.Config(model=Model(path=str(folders["z_image"]), size=tiny_families.SIZE))
    with pytest.raises(DataError, match="tokenizer cannot be read"):
        preflight.model(chosen)


def test_the_deep_autoencoder_scales_both_ways() -> None:
    vae = load_pipeline(
        Model(path=str(tiny_families.sana()), size=tiny_families.SIZE)
    ).vae.requires_grad_(False)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = DeepAutoencoder(vae).encode(images)
    torch.testing.assert_close(latents, 0.41407 * vae.encode(images).latent)
    torch.testing.assert_close(
        DeepAutoencoder(vae).decode(latents), vae.decode(latents / 0.41407).sample
    )
