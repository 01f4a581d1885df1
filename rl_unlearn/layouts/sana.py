"""Folders of Sana (Xie et al. 2024, arXiv 2410.10629)."""

from collections.abc import Mapping
from typing import Any

from rl_unlearn.errors import DataError
from rl_unlearn.layouts import deep_autoencoder, flow_matching, language_models, schedulers
from rl_unlearn.layouts.deep_autoencoder import gated_convolution
from rl_unlearn.layouts.layout import (
    Layout,
    Network,
    Parts,
    check_autoencoder,
    check_words,
    image_latent,
)
from rl_unlearn.layouts.names import Names, both, few, under

TOKENS = 300
"""What the network is told of: the first mark, the end of the instruction, and a prompt's words."""

_TIME = "time_embed.emb.timestep_embedder"


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of a SanaTransformer2DModel that is not told the guidance scale."""
    norm = config.get("qk_norm")
    if norm not in (None, "rms_norm", "rms_norm_across_heads") or config.get("guidance_embeds"):
        return None
    block = both("attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    block |= {f"attn1.to_{part}.weight" for part in "qkv"} | {"scale_shift_table"}
    block |= {f"attn1.to_{part}.bias" for part in "qkv"} if config.get("attention_bias") else set()
    block |= {f"attn{i}.norm_{part}.weight" for i in (1, 2) for part in "qk"} if norm else set()
    block |= both("norm2") if config.get("norm_elementwise_affine") else set()
    block |= under("ff", gated_convolution(normed=False))
    linear = [f"{place}.linear_{i}" for place in ("caption_projection", _TIME) for i in (1, 2)]
    names = both(*linear, "patch_embed.proj", "time_embed.linear", "proj_out")
    names |= {"caption_norm.weight", "scale_shift_table"}
    for i in range(few(config.get("num_layers", 20))):
        names |= under(f"transformer_blocks.{i}", block)
    return names


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    network = parts["transformer"]
    scale = 2 ** (len(deep_autoencoder.widths(parts["vae"])) - 1)
    sample, patch = network.get("sample_size", 32), network.get("patch_size", 1)
    return image_latent(parts, size, network.get("in_channels", 32), sample, patch, scale)


def _check(parts: Parts) -> None:
    network, gives = parts["transformer"], parts["text_encoder"].get("hidden_size", 2304)
    check_autoencoder(parts, network.get("in_channels", 32))
    check_words(gives, network.get("caption_channels", 2304))
    if network.get("guidance_embeds"):
        raise DataError(
            "the model is told the guidance scale, as Sana Sprint is: it was distilled to a few "
            "steps, of which no policy is learned; use Sana"
        )
    if network.get("out_channels", 32) not in (None, network.get("in_channels", 32)):
        raise DataError(
            "the model's network answers with more than a velocity: it cannot be trained"
        )


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    features = parts["transformer"].get("caption_channels", 2304)
    return {"text": (TOKENS, features), "words": (TOKENS,)}


LAYOUT = Layout(
    pipeline="SanaPipeline",
    trained="transformer",
    networks={
        "transformer": Network("SanaTransformer2DModel", transformer),
        "vae": Network("AutoencoderDC", deep_autoencoder.vae),
        "text_encoder": Network(
            "Gemma2Model", language_models.gemma2, language_models.known_as, "model"
        ),
    },
    tokenizers={"tokenizer": "GemmaTokenizer"},
    latent=_latent,
    reads=lambda _parts: ("tokenizer", TOKENS - 1),
    told=_told,
    check=_check,
    notes=flow_matching.notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=lambda _parts: ("sana", "sana"),
    framed=lambda _tokenizer, text: text.lower().strip(),
)
