"""A tiny Z-Image of random weights in its real layout."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content "
    "}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A talk as Qwen3 reads it."""


def tokenizer() -> Qwen2Tokenizer:
    """Every byte is a token."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*letters, *marks])}, merges=[],
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"], model_max_length=131072,
    )  # fmt: skip
    words.chat_template = TEMPLATE
    return words


def pipeline(vae: AutoencoderKL) -> ZImagePipeline:
    """With an odd number of patches, which are filled up."""
    words = tokenizer()
    torch.manual_seed(3)
    reads = Qwen3Model(
        Qwen3Config(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
            tie_word_embeddings=True,
            architectures=["Qwen3ForCausalLM"],
        )
    )  # fmt: skip
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 2, 2], axes_lens=[640, 16, 16],
    )  # fmt: skip
    for token in (
        transformer.x_pad_token,
        transformer.cap_pad_token,
    ):  # zeros would hide a wrong place
        torch.nn.init.normal_(token)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), vae=vae, text_encoder=reads,
        tokenizer=words,
        transformer=transformer,
    )  # fmt: skip
