"""Names of the weights of Qwen's language models, which image models have for text encoders.

They are Qwen2.5-VL (arXiv 2502.13923) and Qwen3 (arXiv 2505.09388). The head that predicts words
is left out: no image needs it, and it may be tied to the table of words.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.layouts.names import Names, both, few, under

_ATTENTION = [f"self_attn.{part}_proj" for part in "qkv"]
_MLP = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]


def qwen3(config: Mapping[str, Any]) -> Names | None:
    """Of a Qwen3ForCausalLM."""
    if config.get("model_type", "qwen3") != "qwen3":
        return None
    layers = [*_ATTENTION, "self_attn.o_proj"]
    attention = both(*layers) if config.get("attention_bias", False) else _plain(*layers)
    attention |= _plain("self_attn.q_norm", "self_attn.k_norm")
    return under("model", _decoder(few(config.get("num_hidden_layers", 32)), attention))


def qwen2_5_vl(config: Mapping[str, Any]) -> Names | None:
    """Of a Qwen2_5_VLForConditionalGeneration, with the tower that looks at images."""
    if config.get("model_type", "qwen2_5_vl") != "qwen2_5_vl":
        return None
    attention = both(*_ATTENTION) | _plain("self_attn.o_proj")
    layers = few(language(config).get("num_hidden_layers", 80))
    names = under("model", _decoder(layers, attention))
    visual = _plain("patch_embed.proj", "merger.ln_q") | both("merger.mlp.0", "merger.mlp.2")
    block = both("attn.qkv", "attn.proj", *_MLP) | _plain("norm1", "norm2")
    for i in range(few((config.get("vision_config") or {}).get("depth", 32))):
        visual |= under(f"blocks.{i}", block)
    return names | under("visual", visual)


def language(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about words of a configuration: older files write it beside the others."""
    return {**config, **(config.get("text_config") or {})}


def known_as(names: Iterable[str]) -> Names:
    """Files have shorter names for the two towers than the class."""
    shorter = {re.sub(r"^model\.(language_model|visual)\.", _shorter, name) for name in names}
    return shorter - {"lm_head.weight"}


def _shorter(tower: re.Match[str]) -> str:
    return "model." if tower[1] == "language_model" else "visual."


def _plain(*layers: str) -> Names:
    return {f"{layer}.weight" for layer in layers}


def _decoder(layers: int, attention: Names) -> Names:
    names = _plain("embed_tokens", "norm")
    for i in range(layers):
        block = attention | _plain(*_MLP, "input_layernorm", "post_attention_layernorm")
        names |= under(f"layers.{i}", block)
    return names
