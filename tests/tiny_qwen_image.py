"""A tiny Qwen-Image of random weights in its real layout."""

import functools
from pathlib import Path

import tiny
import tiny_qwen
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

WORDS = 32
"""Features of a token of the language model."""


def _language() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(3)
    text = {
        "vocab_size": len(tiny_qwen.tokenizer()), "hidden_size": WORDS, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 1024,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
        "out_hidden_size": WORDS,
        "fullatt_block_indexes": [0], "patch_size": 4,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    )


@functools.cache
def qwen_image() -> Path:
    """Its noise is shifted by the number of tokens, and ends at a fiftieth before the last step."""
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WORDS, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )  # fmt: skip
    torch.manual_seed(4)
    vae = AutoencoderKLQwenImage(
        base_dim=8, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True]
    )
    pipeline = QwenImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=_language(), tokenizer=tiny_qwen.tokenizer(),
        transformer=transformer,
    )  # fmt: skip
    begin = pipeline.prompt_template_encode.partition("{}")[0]
    assert len(pipeline.tokenizer(begin).input_ids) == pipeline.prompt_template_encode_start_idx, (
        "as it comes"
    )
    folder = tiny._root() / "qwen-image"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
