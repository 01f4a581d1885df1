"""Names of all weights of an open_clip CLIP of two transformers by its configuration, without
building it.
"""

from collections.abc import Mapping
from typing import Any

_VISION = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
_TEXT = {
    "context_length",
    "vocab_size",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "width",
    "heads",
    "layers",
}
_PLAIN = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
_MOST_LAYERS = 200


def names(config: Mapping[str, Any]) -> set[str] | None:
    """Names the weights of the CLIP that `model_cfg` of an open_clip_config.json describes (Radford
    et al. 2021, arXiv 2103.00020).

    None for a configuration of another kind, of which only loading can tell.
    """
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if set(config) - _PLAIN or set(vision) - _VISION or set(text) - _TEXT:
        return None
    layers = [vision.get("layers", 12), text.get("layers", 12)]
    if not all(isinstance(count, int) and 0 < count <= _MOST_LAYERS for count in layers):
        return None
    weights = {"positional_embedding", "text_projection", "logit_scale", "token_embedding.weight"}
    weights |= {
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.proj",
        "visual.conv1.weight",
    }
    weights |= _both("visual.ln_pre", "visual.ln_post", "ln_final")
    for tower, count in zip(("visual.transformer", "transformer"), layers, strict=True):
        for i in range(count):
            block = f"{tower}.resblocks.{i}"
            parts = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
            weights |= _both(*(f"{block}.{part}" for part in parts))
            weights |= {f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"}
    return weights


def _both(*layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
