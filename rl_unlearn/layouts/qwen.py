"""Names of the weights of Qwen's language models, which image models have for text encoders.

They are Qwen2.5-VL (arXiv 2502.13923) and Qwen3 (arXiv 2505.09388). The head that predicts words
is left out: no image needs it, and it may be tied to the table of words.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.layouts import language_models
from rl_unlearn.layouts.names import Names, both, few, under

_DENSE = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]


def qwen3(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a Qwen3ForCausalLM."""
    names = language_models.qwen3(config)
    return None if names is None else under("model", names)


def qwen2_5_vl(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a Qwen2_5_VLForConditionalGeneration, with the tower that looks at
    images.
    """
    if config.get("model_type", "qwen2_5_vl") != "qwen2_5_vl":
        return None
    layer = both(*(f"self_attn.{part}_proj" for part in "qkv"))
    layer |= _plain("self_attn.o_proj", *_DENSE, "input_layernorm", "post_attention_layernorm")
    names = _plain("model.embed_tokens", "model.norm")
    for i in range(few(language(config).get("num_hidden_layers", 80))):
        names |= under(f"model.layers.{i}", layer)
    names |= _plain("visual.patch_embed.proj", "visual.merger.ln_q")
    names |= both("visual.merger.mlp.0", "visual.merger.mlp.2")
    block = both("attn.qkv", "attn.proj", *_DENSE) | _plain("norm1", "norm2")
    for i in range(few((config.get("vision_config") or {}).get("depth", 32))):
        names |= under(f"visual.blocks.{i}", block)
    return names


def language(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part about words of a configuration: older files write it beside the others."""
    return {**config, **(config.get("text_config") or {})}


def known_as(names: Iterable[str]) -> Names:
    """Files have shorter names for the two towers than the class."""
    shorter = (name.replace("model.language_model.", "model.", 1) for name in names)
    return {name.replace("model.visual.", "visual.", 1) for name in shorter} - {"lm_head.weight"}


def _plain(*layers: str) -> Names:
    return {f"{layer}.weight" for layer in layers}
