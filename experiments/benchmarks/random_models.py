"""Models of real size with random weights: what they take and how they round is real.

Nothing is fetched. CLIP's vocabulary comes with open_clip, and the shapes are the published ones
(:mod:`experiments.benchmarks.published`). ``tiny`` models have the same parts and hardly any width.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from experiments.benchmarks.published import MODELS
from rl_unlearn.vision import open_clip

_SEED = 0
_TRIED_AT = 16
"""Height and width of the latents at which the size of the answers is measured."""
_CONTEXT = 77


_NARROW = {"layers_per_block": 1, "norm_num_groups": 4}
_TINY_VAE = _NARROW | {"block_out_channels": (8, 8, 8, 8), "sample_size": 64}
_FEW_WORDS = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "projection_dim": 16,
}  # fmt: skip
_TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": _NARROW | {
            "block_out_channels": (8, 16), "cross_attention_dim": 16, "attention_head_dim": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        "vae": _TINY_VAE, "text_encoder": _FEW_WORDS,
    },
    "sdxl": {
        "unet": _NARROW | {
            "block_out_channels": (8, 16, 16), "cross_attention_dim": 32,
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        "vae": _TINY_VAE, "text_encoder": _FEW_WORDS, "text_encoder_2": _FEW_WORDS,
    },
}  # fmt: skip
"""What tiny models have in place of the published sizes."""


def save_world(
    place: Path, family: str, size: int, clips: Mapping[str, str], tiny: bool = False
) -> None:
    """Saves a pipeline in ``place/model`` and each of these CLIPs under its name, unless they are
    there.

    ``clips``: open_clip's `arch/pretrained`, whose architecture is taken.
    """
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
        whole = Path(temporary) / "whole"
        for name, spec in clips.items():
            save_clip(whole / name, spec.partition("/")[0])
        save_pipeline(whole / "model", family, size, tiny)
        whole.rename(place)


@torch.no_grad()
def save_pipeline(folder: Path, family: str, size: int, tiny: bool = False) -> None:
    """Saves a pipeline in diffusers layout and fp16 for images of ``size`` pixels.

    The network's answers have the size of unit noise, which a trained one's have.
    """
    words, shape = _tokenizer(tiny), dict(MODELS[family].parts)
    if tiny:
        shape |= {part: shape[part] | sizes for part, sizes in _TINY[family].items()}
    torch.manual_seed(_SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        tried = shape["unet"] | {"sample_size": _TRIED_AT}
        unet = _unit_answers(UNet2DConditionModel.from_config(tried)).half()
        vae = AutoencoderKL.from_config(shape["vae"]).half()
        first = CLIPTextModel(_words(shape["text_encoder"], words)).half()
        others = [
            CLIPTextModelWithProjection(_words(shape[part], words)).half()
            for part in shape
            if part == "text_encoder_2"
        ]
    unet.register_to_config(sample_size=size // 2 ** (len(vae.config.block_out_channels) - 1))
    scheduler = DDIMScheduler.from_config(shape["scheduler"])
    parts: dict[str, Any] = {
        "unet": unet, "vae": vae, "text_encoder": first, "tokenizer": words, "scheduler": scheduler,
    }  # fmt: skip
    if others:
        parts |= {"text_encoder_2": others[0], "tokenizer_2": words, "add_watermarker": False}
        pipeline = StableDiffusionXLPipeline(**parts)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.save_pretrained(folder, safe_serialization=True)


def save_clip(folder: Path, architecture: str) -> None:
    """Saves a CLIP of one of open_clip's architectures, in its folder layout."""
    torch.manual_seed(_SEED)
    clip = open_clip.create_model(architecture)
    folder.mkdir(parents=True)
    settings = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    weights = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def _tokenizer(tiny: bool) -> CLIPTokenizer:
    """CLIP's own, from open_clip's list of merges; a tiny one knows letters alone."""
    plain = open_clip.SimpleTokenizer()
    tokens, merges = list(plain.encoder)[:-2], list(plain.bpe_ranks)  # but for the two marks
    if tiny:
        tokens, merges = tokens[: len(tokens) - len(merges)], []
    vocabulary = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=_CONTEXT)


def _words(shape: dict[str, Any], words: CLIPTokenizer) -> CLIPTextConfig:
    end = len(words) - 1
    marks = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return CLIPTextConfig.from_dict(shape | marks | {"vocab_size": len(words)})


def _unit_answers(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    config = unet.eval().config
    asked = torch.randn(1, 4, _TRIED_AT, _TRIED_AT), torch.tensor([500])
    words = torch.randn(1, _CONTEXT, config.cross_attention_dim)
    added = None
    if config.addition_embed_type is not None:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.zeros(1, 6)}
    scale = unet(*asked, words, added_cond_kwargs=added).sample.std()
    unet.conv_out.weight /= scale
    unet.conv_out.bias /= scale
    return unet
