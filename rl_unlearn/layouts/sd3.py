"""Folders of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from collections.abc import Iterator, Mapping
from typing import Any

from rl_unlearn.config import Sampler
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

T5_TOKENS = 256


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of an SD3Transformer2DModel."""
    norm = config.get("qk_norm")
    if norm not in (None, "rms_norm"):
        return None
    layers, twice = few(config.get("num_layers", 18)), set(config.get("dual_attention_layers", ()))
    names = {"pos_embed.pos_embed"} | both("pos_embed.proj", "norm_out.linear", "proj_out")
    names |= time_and_words("timestep_embedder", "text_embedder")
    for i in range(layers):
        names |= under(
            f"transformer_blocks.{i}", joint_block(norm is not None, last=i == layers - 1)
        )
        if i in twice:
            second = both("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
            second |= {"attn2.norm_q.weight", "attn2.norm_k.weight"} if norm else set()
            names |= under(f"transformer_blocks.{i}", second)
    return names


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    network = parts["transformer"]
    patch = network.get("patch_size", 2)
    return image_latent(
        parts, size, network.get("in_channels", 16), network.get("sample_size", 128), patch
    )


def _check(parts: Parts) -> None:
    network = parts["transformer"]
    check_autoencoder(parts, network.get("in_channels", 16))
    pooled = sum(
        parts[name].get("projection_dim", 512) for name in ("text_encoder", "text_encoder_2")
    )
    check_words(pooled, network.get("pooled_projection_dim", 2048), "CLIP text encoders together")
    if "text_encoder_3" in parts:
        check_words(
            parts["text_encoder_3"].get("d_model"),
            network.get("joint_attention_dim"),
            "text_encoder_3",
        )


def _notes(parts: Parts, sampler: Sampler | None) -> Iterator[str]:
    yield from flow_matching.notes(parts, sampler)
    if "text_encoder_3" not in parts:
        yield "the model comes without its third text encoder (T5): prompts are read by CLIP alone"


def _reads(parts: Parts) -> tuple[str, int]:
    if "text_encoder_3" in parts:
        return "tokenizer_3", T5_TOKENS
    return "tokenizer", parts["text_encoder"].get("max_position_embeddings", 77)


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    """CLIP's words before T5's, for which there is room also where T5 is left out."""
    network, clip = parts["transformer"], parts["text_encoder"].get("max_position_embeddings", 77)
    words = clip + T5_TOKENS, network.get("joint_attention_dim", 4096)
    return {"text": words, "pooled": (network.get("pooled_projection_dim", 2048),)}


LAYOUT = Layout(
    pipeline="StableDiffusion3Pipeline",
    trained="transformer",
    networks={
        "transformer": Network("SD3Transformer2DModel", transformer),
        "vae": networks.VAE,
        "text_encoder": networks.CLIP_PROJECTED,
        "text_encoder_2": networks.CLIP_PROJECTED,
        "text_encoder_3": networks.T5,
    },
    tokenizers={
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5Tokenizer",
    },
    latent=_latent,
    reads=_reads,
    told=_told,
    check=_check,
    notes=_notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=lambda _parts: ("stable-diffusion-v3.5-medium", "sd3.5-medium"),
    optional=frozenset({"text_encoder_3", "tokenizer_3"}),
)
