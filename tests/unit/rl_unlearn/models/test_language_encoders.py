"""Families whose prompts are read by a language model: Qwen-Image and FLUX.2."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_families
import tiny_policies
import torch
import transformers
from torch import nn

from rl_unlearn.config import Model
from rl_unlearn.layouts import flux2, qwen_image
from rl_unlearn.models import foundation, model_folder
from rl_unlearn.models.tokens import TokenLimit

FLAT = {
    "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "tie_word_embeddings": False,
    "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
    "vision_config": {"depth": 32},
}  # fmt: skip
"""As the configuration of Qwen-Image's language model was written: that of words is not apart."""
REAL: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "qwen": (qwen_image.LAYOUT.networks, "transformer", {}),
    "qwen's vae": (qwen_image.LAYOUT.networks, "vae", {}),
    "qwen's words": (qwen_image.LAYOUT.networks, "text_encoder", FLAT),
    "klein 4B": (flux2.LAYOUT.networks, "transformer", {
        "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    }),
    "klein's vae": (flux2.LAYOUT.networks, "vae", {
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 32,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    }),
    "klein's words": (flux2.LAYOUT.networks, "text_encoder", {"num_hidden_layers": 36}),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_names_at_real_size_are_those_of_the_libraries(name: str) -> None:
    networks, component, config = REAL[name]
    known = networks[component]
    with torch.device("meta"):
        if hasattr(diffusers, known.kind):
            network = getattr(diffusers, known.kind).from_config(config)
        else:
            kind = getattr(transformers, known.kind)
            network = kind(kind.config_class.from_dict(config))
    assert known.names(config) == known.known_as(network.state_dict())


@pytest.mark.parametrize(("name", "most"), [("qwen_image", 256), ("flux2", 509)])
def test_what_is_cut_of_a_prompt_has_no_effect_and_what_is_not_has(name: str, most: int) -> None:
    """Their tokenizers mark no end."""
    limit, made = (
        TokenLimit(tiny_families.FOLDERS[name]()),
        tiny_policies.policy(tiny_policies.config(name)),
    )
    whole = "".join("bcdfghijkl"[i % 10] for i in range(most))
    for text, other in ((whole + "x", whole + "y"), (whole, whole[:-1] + "z")):
        same = limit.read([text])[0] == limit.read([other])[0]
        assert same == torch.equal(*made.encode([text, other]).text)
    assert limit.cut([whole]) == {}
    assert limit.cut([whole + "x"]) == {whole + "x": "x"}
    assert len({*limit.read(["cat", "car"])}) == 2


@pytest.mark.parametrize("name", ["qwen_image", "flux2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_prompt_is_drawn_as_it_is_whoever_stands_beside_it(name: str, dtype: str) -> None:
    """Their pipelines fill prompts up, to the longest one or to a number; here it is the same
    number for a run.
    """
    made = tiny_policies.policy(
        tiny_policies.config(name, model={"dtype": dtype}, sampler={"guidance": 2.0})
    )
    beside = (
        ["A dog."],
        ["A fish image in the noto style, of many more words than stand in the other."],
    )
    told = [made.encode([tiny_policies.PROMPTS[0], *texts]) for texts in beside]
    for key in told[0].tensors:
        assert torch.equal(told[0].tensors[key][0], told[1].tensors[key][0]), key
    latents = torch.randn(3, *made.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, second = (
            made.predict(latents[[0, row]], torch.tensor([2, row]), condition)
            for row, condition in zip((1, 2), told, strict=True)
        )
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@torch.no_grad()
def test_images_become_latents_as_in_diffusers() -> None:
    image = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    family = tiny_policies.policy(tiny_policies.config("flux2")).family
    theirs = family.pipeline._encode_vae_image(image, None)
    torch.testing.assert_close(
        nn.functional.pixel_unshuffle(family.autoencoder.encode(image), 2), theirs
    )
    family = tiny_policies.policy(tiny_policies.config("qwen_image")).family
    theirs = family.pipeline.vae.encode(image[:, :, None]).latent_dist.mode()
    mean, std = (
        torch.tensor(family.pipeline.vae.config[key]) for key in ("latents_mean", "latents_std")
    )
    expected = (theirs.squeeze(2).movedim(1, 3) - mean) / std
    torch.testing.assert_close(family.autoencoder.encode(image).movedim(1, 3), expected)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("transformer/config.json", {"zero_cond_t": True}, "another edition of Qwen-Image"),
        ("vae/config.json", {"latents_std": [1.0] * 15}, "not 16 numbers: fetch the model again"),
        ("vae/config.json", {"latents_std": [0.0] * 16}, "latents_std is not positive"),
        ("vae/config.json", {"z_dim": 8}, "takes 16 channels, its vae gives 8"),
    ],
)
def test_folders_of_qwen_image_that_do_not_fit(
    file: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_families.FOLDERS["qwen_image"](), tmp_path / "model"))
    parts = dict(model_folder.read_parts(folder))
    parts[file.partition("/")[0]] |= changes
    with pytest.raises(model_folder.DataError, match=said):
        model_folder.read_layout(folder).check(parts)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    assert len(tiny_policies.refusals(folder)) == 1


def test_a_language_model_of_too_few_layers(tmp_path: Path) -> None:
    parts = dict(model_folder.read_parts(tiny_families.FOLDERS["flux2"]()))
    parts["text_encoder"] |= {"num_hidden_layers": 26}
    with pytest.raises(model_folder.DataError, match="fewer than 27 layers"):
        flux2.LAYOUT.check(parts)


def test_a_language_model_without_its_template(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_families.FOLDERS["flux2"](), tmp_path / "model"))
    assert "model tokenizer/chat_template.jinja" in foundation.of_model(Model(path=str(folder)))
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    (said,) = tiny_policies.refusals(folder)
    assert "tokenizer has no chat template" in said
