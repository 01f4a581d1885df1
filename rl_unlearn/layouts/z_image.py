"""Folders of Z-Image (Tongyi-MAI 2025, arXiv 2511.22699)."""

from collections.abc import Iterator, Mapping
from typing import Any

from rl_unlearn.config import Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.layouts import flow_matching, language_models, networks, schedulers
from rl_unlearn.layouts.layout import (
    REMEDY,
    Layout,
    Network,
    Parts,
    check_autoencoder,
    check_words,
    image_latent,
)
from rl_unlearn.layouts.names import Names, both, few, under

TOKENS = 512
"""Most tokens of a prompt with its template."""
PATCH = 2
_OWN_SIZE = 128
"""Side of the latents of 1024 pixels; the configuration does not name it."""
_TURBO_SHIFT = 3.0
_PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of a ZImageTransformer2DModel that reads no images."""
    if config.get("siglip_feat_dim") is not None:
        return None
    parts = [f"attention.to_{part}" for part in ("q", "k", "v", "out.0")]
    parts += [f"feed_forward.w{i}" for i in (1, 2, 3)]
    parts += [f"{side}_norm{i}" for side in ("attention", "ffn") for i in (1, 2)]
    parts += ["attention.norm_q", "attention.norm_k"] if config.get("qk_norm", True) else []
    plain = {f"{part}.weight" for part in parts}
    timed = plain | both("adaLN_modulation.0")
    names = {"x_pad_token", "cap_pad_token", "cap_embedder.0.weight"}
    names |= both("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1")
    for size in _patches(config):
        kind = "-".join(map(str, size))
        final = f"all_final_layer.{kind}"
        names |= both(f"all_x_embedder.{kind}", f"{final}.linear", f"{final}.adaLN_modulation.1")
    for i in range(few(config.get("n_refiner_layers", 2))):
        names |= under(f"noise_refiner.{i}", timed) | under(f"context_refiner.{i}", plain)
    for i in range(few(config.get("n_layers", 30))):
        names |= under(f"layers.{i}", timed)
    return names


def _patches(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Sizes that the network can read its latents in, in space and in time."""
    space, time = config.get("all_patch_size", (PATCH,)), config.get("all_f_patch_size", (1,))
    return [*zip(space, time, strict=True)]


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    network = parts["transformer"]
    latent = image_latent(parts, size, network.get("in_channels", 16), _OWN_SIZE, PATCH)
    _, *most = network.get("axes_lens", (1024, 512, 512))
    if any(n // PATCH > places for n, places in zip(latent[1:], most, strict=True)):
        problem = f"model.size={size}: the network has places for {most} patches"
        raise ConfigError(f"{problem} of {PATCH} by {PATCH} latents")
    return latent


def _check(parts: Parts) -> None:
    network = parts["transformer"]
    check_autoencoder(parts, network.get("in_channels", 16))
    check_words(parts["text_encoder"].get("hidden_size", 4096), network.get("cap_feat_dim", 2560))
    if network.get("siglip_feat_dim") is not None:
        raise DataError(
            "the model's network reads images, too (Z-Image-Omni): it cannot be trained"
        )
    patches, places = _patches(network), network.get("axes_lens", (1024, 512, 512))
    if (PATCH, 1) not in patches or places[0] <= TOKENS + 1:
        problem = f"transformer/config.json has patches {patches}, and {places[0]} places for words"
        raise DataError(f"{problem}, not {(PATCH, 1)} and more than {TOKENS + 1}: {REMEDY}")


def _notes(parts: Parts, sampler: Sampler | None) -> Iterator[str]:
    yield from flow_matching.notes(parts, sampler)
    if parts["scheduler"].get("shift", 1.0) == _TURBO_SHIFT:
        yield (
            "the scheduler's shift is 3, as Z-Image-Turbo's is (Z-Image's is 6), and nothing else "
            "in a folder tells them apart: a model that was distilled to 8 steps is no policy to "
            "learn"
        )


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    return {"text": (TOKENS, parts["transformer"].get("cap_feat_dim", 2560)), "words": (TOKENS,)}


def _framed(tokenizer: Any, text: str) -> str:
    """Puts what a user says in the template of a talk."""
    talk = [{"role": "user", "content": _PLACE}]
    how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    whole = tokenizer.apply_chat_template(talk, **how)
    return f"{whole.partition(_PLACE)[0]}{text}"


LAYOUT = Layout(
    pipeline="ZImagePipeline",
    trained="transformer",
    networks={
        "transformer": Network("ZImageTransformer2DModel", transformer),
        "vae": networks.VAE,
        "text_encoder": Network(
            "Qwen3Model", language_models.qwen3, language_models.known_as, "model"
        ),
    },
    tokenizers={"tokenizer": "Qwen2Tokenizer"},
    latent=_latent,
    reads=lambda _parts: ("tokenizer", TOKENS),
    told=_told,
    check=_check,
    notes=_notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=lambda _parts: ("z-image", "z_image"),
    framed=_framed,
    templates=frozenset({"tokenizer"}),
)
