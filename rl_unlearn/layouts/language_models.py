"""Names of the weights of language models whose hidden states tell a network of a prompt."""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.layouts.names import Names, both, few, under


def qwen3(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a Qwen3Model (Yang et al. 2025, arXiv 2505.09388)."""
    if config.get("model_type", "qwen3") != "qwen3":
        return None
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    return _decoder(config, norms)


def gemma2(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a Gemma2Model (Riviere et al. 2024, arXiv 2408.00118)."""
    if config.get("model_type", "gemma2") != "gemma2":
        return None
    return _decoder(config, tuple(f"{where}_layernorm" for where in _AROUND))


def known_as(names: Iterable[str]) -> Names:
    """Returns names without the `model.` that stands before each in a file of the whole language
    model.
    """
    return {name.removeprefix("model.") for name in names}


_AROUND = ("input", "post_attention", "pre_feedforward", "post_feedforward")


def _decoder(config: Mapping[str, Any], norms: tuple[str, ...]) -> Names:
    """Names the weights of layers with these norms, whose dense part is gated."""
    attention = [f"self_attn.{part}_proj" for part in "qkvo"]
    dense = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    layer = {f"{part}.weight" for part in (*attention, *dense, *norms)}
    layer |= both(*attention) if config.get("attention_bias") else set()
    names = {"embed_tokens.weight", "norm.weight"}
    for i in range(few(config.get("num_hidden_layers", 32))):
        names |= under(f"layers.{i}", layer)
    return names
