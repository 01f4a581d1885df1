"""Folders of FLUX.2 [klein] (Black Forest Labs 2026), those of its base models."""

from collections.abc import Mapping
from typing import Any

from rl_unlearn.errors import DataError
from rl_unlearn.layouts import flow_matching, networks, qwen, schedulers
from rl_unlearn.layouts.layout import (
    REMEDY,
    Layout,
    Network,
    Parts,
    check_autoencoder,
    check_words,
    image_latent,
)
from rl_unlearn.layouts.names import Names, few, under

TEXT_TOKENS = 512
"""Most tokens of a prompt within its template."""
LANGUAGE_LAYERS = (9, 18, 27)
"""Those whose states the network reads, side by side."""
_TEMPLATE_TOKENS = 3
"""Before the prompt: a mark, who speaks, and a new line."""
_OWN_SIZE = 128
"""Side of the latents of 1024 pixels; the configuration does not name it."""
_SMALL_HEADS = 24
"""Attention heads of the model with four billion parameters."""


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of a Flux2Transformer2DModel; no layer has a bias."""
    times = ["timestep_embedder"] + ["guidance_embedder"] * bool(
        config.get("guidance_embeds", True)
    )
    layers = [f"time_guidance_embed.{name}.linear_{i}" for name in times for i in (1, 2)]
    streams = (
        "double_stream_modulation_img",
        "double_stream_modulation_txt",
        "single_stream_modulation",
    )
    layers += [f"{name}.linear" for name in (*streams, "norm_out")]
    names = _weights(*layers, "x_embedder", "context_embedder", "proj_out")
    joint = [f"attn.to_{part}" for part in ("q", "k", "v", "out.0", "add_out")]
    joint += [f"attn.add_{part}_proj" for part in "qkv"]
    joint += [f"attn.norm_{part}" for part in ("q", "k", "added_q", "added_k")]
    joint += [f"{side}.linear_{way}" for side in ("ff", "ff_context") for way in ("in", "out")]
    for i in range(few(config.get("num_layers", 8))):
        names |= under(f"transformer_blocks.{i}", _weights(*joint))
    single = _weights("attn.to_qkv_mlp_proj", "attn.to_out", "attn.norm_q", "attn.norm_k")
    for i in range(few(config.get("num_single_layers", 48))):
        names |= under(f"single_transformer_blocks.{i}", single)
    return names


def _weights(*layers: str) -> Names:
    return {f"{layer}.weight" for layer in layers}


def vae(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of an AutoencoderKLFlux2: mean and variance of its latents are among
    them.
    """
    if config.get("decoder_block_out_channels") is not None:
        return None
    names = networks.vae(config)
    statistics = {f"bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    return None if names is None else names | statistics


def _channels(parts: Parts) -> object:
    """Returns the channels of the latents, of which the network reads 2 by 2 as one token."""
    packed = parts["transformer"].get("in_channels", 128)
    return packed // 4 if isinstance(packed, int) else packed


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    return image_latent(parts, size, _channels(parts), _OWN_SIZE, 2)


def _check(parts: Parts) -> None:
    network, language = parts["transformer"], parts["text_encoder"]
    check_autoencoder(parts, _channels(parts))
    most = LANGUAGE_LAYERS[-1]
    if language.get("num_hidden_layers", 32) < most:
        raise DataError(
            f"text_encoder has fewer than {most} layers, whose states are read: {REMEDY}"
        )
    gives = len(LANGUAGE_LAYERS) * language.get("hidden_size", 4096)
    check_words(gives, network.get("joint_attention_dim", 15360))
    if parts["pipeline"].get("is_distilled", False):
        raise DataError(
            "the model was distilled to a few steps (is_distilled), of which no policy is "
            "learned; use FLUX.2-klein-base-4B or FLUX.2-klein-base-9B"
        )


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    return {"text": (TEXT_TOKENS, parts["transformer"].get("joint_attention_dim", 15360))}


def _architecture(parts: Parts) -> tuple[str, str]:
    size = "4b" if parts["transformer"].get("num_attention_heads", 48) <= _SMALL_HEADS else "9b"
    return f"Flux.2-klein-{size}", f"flux_2_klein_{size}"


LAYOUT = Layout(
    pipeline="Flux2KleinPipeline",
    trained="transformer",
    networks={
        "transformer": Network("Flux2Transformer2DModel", transformer),
        "vae": Network("AutoencoderKLFlux2", vae, networks.vae_known_as),
        "text_encoder": Network("Qwen3ForCausalLM", qwen.qwen3, qwen.known_as, "model"),
    },
    tokenizers={"tokenizer": "Qwen2TokenizerFast"},
    latent=_latent,
    reads=lambda _parts: ("tokenizer", TEXT_TOKENS - _TEMPLATE_TOKENS),
    told=_told,
    check=_check,
    notes=flow_matching.notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=_architecture,
    templates=frozenset({"tokenizer"}),
)
