"""Folders of FLUX.1-dev (Black Forest Labs 2024)."""

from collections.abc import Mapping
from typing import Any

from rl_unlearn.errors import DataError
from rl_unlearn.layouts import flow_matching, networks, schedulers
from rl_unlearn.layouts.joint_blocks import joint_block, time_and_words
from rl_unlearn.layouts.layout import (
    Layout,
    Network,
    Parts,
    check_autoencoder,
    check_words,
    image_latent,
)
from rl_unlearn.layouts.names import Names, both, few, under

T5_TOKENS = 512
_OWN_SIZE = 128
"""Side of the latents of 1024 pixels; the configuration does not name it."""


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of a FluxTransformer2DModel."""
    embedders = ["timestep_embedder", "text_embedder"] + ["guidance_embedder"] * bool(
        config.get("guidance_embeds")
    )
    names = time_and_words(*embedders) | both("x_embedder", "norm_out.linear", "proj_out")
    for i in range(few(config.get("num_layers", 19))):
        names |= under(f"transformer_blocks.{i}", joint_block(normed=True))
    single = both("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")
    single |= {"attn.norm_q.weight", "attn.norm_k.weight"}
    for i in range(few(config.get("num_single_layers", 38))):
        names |= under(f"single_transformer_blocks.{i}", single)
    return names


def _channels(parts: Parts) -> object:
    """Returns the channels of the latents, of which the network reads 2 by 2 as one token."""
    packed = parts["transformer"].get("in_channels", 64)
    return packed // 4 if isinstance(packed, int) else packed


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    return image_latent(parts, size, _channels(parts), _OWN_SIZE, 2)


def _check(parts: Parts) -> None:
    network = parts["transformer"]
    check_autoencoder(parts, _channels(parts))
    check_words(
        parts["text_encoder_2"].get("d_model"),
        network.get("joint_attention_dim", 4096),
        "text_encoder_2",
    )
    pooled = network.get("pooled_projection_dim", 768)
    check_words(parts["text_encoder"].get("hidden_size", 512), pooled, "text_encoder")
    if not network.get("guidance_embeds", False):
        raise DataError(
            "the model is not told the guidance scale, as FLUX.1-schnell is not: it was distilled "
            "to a few steps, of which no policy is learned; use FLUX.1-dev"
        )


def _reads(_parts: Parts) -> tuple[str, int]:
    return "tokenizer_2", T5_TOKENS


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    network = parts["transformer"]
    words = T5_TOKENS, network.get("joint_attention_dim", 4096)
    return {"text": words, "pooled": (network.get("pooled_projection_dim", 768),)}


LAYOUT = Layout(
    pipeline="FluxPipeline",
    trained="transformer",
    networks={
        "transformer": Network("FluxTransformer2DModel", transformer),
        "vae": networks.VAE,
        "text_encoder": networks.CLIP_TEXT,
        "text_encoder_2": networks.T5,
    },
    tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"},
    latent=_latent,
    reads=_reads,
    told=_told,
    told_guidance=True,
    check=_check,
    notes=flow_matching.notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=lambda _parts: ("flux-1-dev", "flux1"),
)
