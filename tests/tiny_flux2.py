"""A tiny FLUX.2 [klein] of random weights in its real layout."""

import functools
from pathlib import Path

import tiny
import tiny_qwen
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen3Config, Qwen3ForCausalLM

WORDS = 16
"""Features of a token of the language model, three layers of which are read."""


def _language() -> Qwen3ForCausalLM:
    torch.manual_seed(3)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tiny_qwen.tokenizer()), hidden_size=WORDS, intermediate_size=16,
            num_hidden_layers=28,
            num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def _autoencoder() -> AutoencoderKLFlux2:
    torch.manual_seed(4)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=32, sample_size=16,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


@functools.cache
def flux2(distilled: bool = False) -> Path:
    """A base model of klein; ``distilled``: to few steps."""
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WORDS, timestep_guidance_channels=32, axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        scheduler=scheduler, vae=_autoencoder(), text_encoder=_language(),
        tokenizer=tiny_qwen.tokenizer(),
        transformer=transformer, is_distilled=distilled,
    )  # fmt: skip
    folder = tiny._root() / f"flux2-{distilled}"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
