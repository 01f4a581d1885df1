"""Models of real size with random weights: what they take and how they round is real.

Nothing is fetched. CLIP's vocabulary comes with open_clip, and the shapes are those that the makers
publish: Stable Diffusion 1.5 (Rombach et al. 2022, arXiv 2112.10752) and XL (Podell et al. 2023,
arXiv 2307.01952). ``tiny`` models have the same parts and hardly any width.
"""

import json
from dataclasses import dataclass
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

from rl_unlearn.vision import open_clip

_SEED = 0
_TRIED_AT = 16
"""Height and width of the latents at which the size of the answers is measured."""
_CONTEXT = 77


@dataclass(frozen=True)
class _Shape:
    """What the configurations of a model say of its sizes."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    words: tuple[dict[str, Any], ...]
    """Of each text encoder."""


_SDXL_UNET = {
    "use_linear_projection": True, "addition_embed_type": "text_time",
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
_VAE = {"layers_per_block": 2, "block_out_channels": (128, 256, 512, 512), "sample_size": 512}
_CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
_BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
_REAL = {
    "sd15": _Shape({"cross_attention_dim": 768}, _VAE, (_CLIP_L,)),
    "sdxl": _Shape(
        _SDXL_UNET | {
            "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10), "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 6 * 256 + 1280,
        },
        _VAE | {"scaling_factor": 0.13025, "force_upcast": True},
        (_CLIP_L, _BIG_G),
    ),
}  # fmt: skip
_NARROW = {"layers_per_block": 1, "norm_num_groups": 4}
_TINY_VAE = _NARROW | {"block_out_channels": (8, 8, 8, 8), "sample_size": 64}
_FEW_WORDS = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "projection_dim": 16,
}  # fmt: skip
_TINY = {
    "sd15": _Shape(
        _NARROW | {
            "block_out_channels": (8, 16), "cross_attention_dim": 16, "attention_head_dim": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        _TINY_VAE,
        (_FEW_WORDS,),
    ),
    "sdxl": _Shape(
        _SDXL_UNET | _NARROW | {
            "block_out_channels": (8, 16, 16), "cross_attention_dim": 32,
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        _TINY_VAE | {"scaling_factor": 0.13025, "force_upcast": True},
        (_FEW_WORDS, _FEW_WORDS),
    ),
}  # fmt: skip


@torch.no_grad()
def save_pipeline(folder: Path, family: str, size: int, tiny: bool = False) -> None:
    """A pipeline in diffusers layout and fp16 for images of ``size`` pixels.

    The network's answers have the size of unit noise, which a trained one's have.
    """
    shape, words = (_TINY if tiny else _REAL)[family], _tokenizer(tiny)
    torch.manual_seed(_SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        unet = _unit_answers(UNet2DConditionModel(sample_size=_TRIED_AT, **shape.unet)).half()
        vae = AutoencoderKL(
            latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, **shape.vae,
        ).half()  # fmt: skip
        first = CLIPTextModel(_words(shape.words[0], words)).half()
        others = [CLIPTextModelWithProjection(_words(w, words)).half() for w in shape.words[1:]]
    unet.register_to_config(sample_size=size // 2 ** (len(vae.config.block_out_channels) - 1))
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**schedule, clip_sample=False, steps_offset=1)
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
    """A CLIP of one of open_clip's architectures, in its folder layout."""
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
    return CLIPTextConfig(vocab_size=len(words), max_position_embeddings=_CONTEXT, **marks, **shape)


def _unit_answers(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    config = unet.eval().config
    asked = torch.randn(1, 4, _TRIED_AT, _TRIED_AT), torch.tensor([500])
    told = torch.randn(1, _CONTEXT, config.cross_attention_dim)
    added = None
    if config.addition_embed_type is not None:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.zeros(1, 6)}
    scale = unet(*asked, told, added_cond_kwargs=added).sample.std()
    unet.conv_out.weight /= scale
    unet.conv_out.bias /= scale
    return unet
