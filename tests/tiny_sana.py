"""A tiny Sana of random weights in its real layout."""

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from rl_unlearn.families.sana import INSTRUCTION


def tokenizer() -> GemmaTokenizer:
    """Every letter is a token, and so is every line of the instruction, which would be long
    otherwise.
    """
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n"]
    letters = [*marks, *map(chr, range(33, 127))]
    words = GemmaTokenizer(
        vocab={token: i for i, token in enumerate(letters)},
        merges=[],
        add_bos_token=True,
        model_max_length=8192,
    )
    words.add_tokens([line for line in INSTRUCTION if line != "User Prompt: "])
    return words


def pipeline() -> SanaPipeline:
    """Its scheduler is a solver of flows, and its autoencoder has blocks of both kinds."""
    words = tokenizer()
    torch.manual_seed(3)
    reads = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=64,
        )
    )  # fmt: skip
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=1, cross_attention_head_dim=16, cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )  # fmt: skip
    torch.manual_seed(4)
    vae = AutoencoderDC(
        latent_channels=8, attention_head_dim=8, scaling_factor=0.41407,
        upsample_block_type="interpolate",
        downsample_block_type="conv", **{
            f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in {
                "block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (8, 16),
                "layers_per_block": (1, 1), "qkv_multiscales": ((), (5,)),
            }.items()
        },
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    return SanaPipeline(
        tokenizer=words, text_encoder=reads, vae=vae, transformer=transformer, scheduler=scheduler
    )
