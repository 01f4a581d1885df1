"""Folders of Qwen-Image (Qwen team 2025, arXiv 2508.02324)."""

import math
from collections.abc import Mapping
from typing import Any

from rl_unlearn.errors import DataError
from rl_unlearn.layouts import flow_matching, qwen, schedulers
from rl_unlearn.layouts.layout import REMEDY, Layout, Network, Parts, check_words, image_latent
from rl_unlearn.layouts.names import Names, both, few, under

TEXT_TOKENS = 256
"""Most tokens of a prompt with the end of its template; the pipeline takes any number up to
1024."""
_OWN_SIZE = 128
"""Side of the latents of 1024 pixels; the configuration does not name it."""
_OTHERS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
"""What editions that edit images, or draw layers, have besides."""


def transformer(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of a QwenImageTransformer2DModel."""
    if any(config.get(name) for name in _OTHERS):
        return None
    times = [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
    names = both(*times, "img_in", "txt_in", "norm_out.linear", "proj_out") | {"txt_norm.weight"}
    layers = [
        f"{side}_{part}"
        for side in ("img", "txt")
        for part in ("mod.1", "mlp.net.0.proj", "mlp.net.2")
    ]
    layers += [f"attn.to_{part}" for part in "qkv"] + [f"attn.add_{part}_proj" for part in "qkv"]
    block = both(*layers, "attn.to_out.0", "attn.to_add_out")
    block |= {f"attn.norm_{part}.weight" for part in ("q", "k", "added_q", "added_k")}
    for i in range(few(config.get("num_layers", 60))):
        names |= under(f"transformer_blocks.{i}", block)
    return names


def vae(config: Mapping[str, Any]) -> Names | None:
    """Names of the weights of an AutoencoderKLQwenImage, which was made for videos."""
    widths, layers = (
        list(config.get("dim_mult", (1, 2, 4, 4))),
        few(config.get("num_res_blocks", 2)),
    )
    few(len(widths))
    in_time = list(config.get("temperal_downsample", (False, True, True)))
    if config.get("attn_scales") or len(in_time) != len(widths) - 1:
        return None
    names = both("quant_conv", "post_quant_conv")
    for side in ("encoder", "decoder"):
        names |= both(f"{side}.conv_in", f"{side}.conv_out") | {f"{side}.norm_out.gamma"}
        for j in range(2):
            names |= under(f"{side}.mid_block.resnets.{j}", _resnet(False))
        attention = both("to_qkv", "proj") | {"norm.gamma"}
        names |= under(f"{side}.mid_block.attentions.0", attention)
    number, width = 0, 1
    for i, out in enumerate(widths):
        for _ in range(layers):
            names |= under(f"encoder.down_blocks.{number}", _resnet(width != out))
            number, width = number + 1, out
        if i < len(in_time):
            names |= under(f"encoder.down_blocks.{number}", _resample(in_time[i]))
            number += 1
    dim = config.get("base_dim", 96)
    width = dim * widths[-1]
    for i, multiple in enumerate(reversed(widths)):
        for j in range(layers + 1):
            names |= under(f"decoder.up_blocks.{i}.resnets.{j}", _resnet(width != dim * multiple))
            width = dim * multiple
        if i < len(in_time):
            names |= under(f"decoder.up_blocks.{i}.upsamplers.0", _resample(in_time[-1 - i]))
            width //= 2
    return names


def _resnet(shortcut: bool) -> Names:
    return both("conv1", "conv2", *["conv_shortcut"] * shortcut) | {"norm1.gamma", "norm2.gamma"}


def _resample(in_time: bool) -> Names:
    return both("resample.1", *["time_conv"] * in_time)


def _channels(parts: Parts) -> object:
    """Returns the channels of the latents, of which the network reads 2 by 2 as one token."""
    packed = parts["transformer"].get("in_channels", 64)
    return packed // 4 if isinstance(packed, int) else packed


def _latent(parts: Parts, size: tuple[int, int] | None) -> tuple[int, int, int]:
    halvings = len(parts["vae"].get("temperal_downsample", (False, True, True)))
    return image_latent(parts, size, _channels(parts), _OWN_SIZE, 2, scale=2**halvings)


def _check(parts: Parts) -> None:
    network, autoencoder = parts["transformer"], parts["vae"]
    other = [name for name in _OTHERS if network.get(name)]
    if other:
        problem = f"transformer/config.json has {other[0]}: another edition of Qwen-Image"
        raise DataError(f"{problem}, which cannot be trained; use Qwen-Image itself")
    reads, channels = _channels(parts), autoencoder.get("z_dim", 16)
    if channels != reads:
        raise DataError(f"the model's network takes {reads} channels, its vae gives {channels}")
    for name in ("latents_mean", "latents_std"):
        values = autoencoder.get(name)
        fits = isinstance(values, list) and len(values) == channels and all(map(_finite, values))
        if not fits:
            raise DataError(
                f"vae/config.json: {name} is {values!r}, not {channels} numbers: {REMEDY}"
            )
    if not all(value > 0 for value in autoencoder["latents_std"]):
        raise DataError(f"vae/config.json: latents_std is not positive everywhere: {REMEDY}")
    words = qwen.language(parts["text_encoder"]).get("hidden_size")
    check_words(words, network.get("joint_attention_dim", 3584))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(parts: Parts) -> dict[str, tuple[int, ...]]:
    words = TEXT_TOKENS, parts["transformer"].get("joint_attention_dim", 3584)
    return {"text": words, "mask": (TEXT_TOKENS,)}


LAYOUT = Layout(
    pipeline="QwenImagePipeline",
    trained="transformer",
    networks={
        "transformer": Network("QwenImageTransformer2DModel", transformer),
        "vae": Network("AutoencoderKLQwenImage", vae),
        "text_encoder": Network(
            "Qwen2_5_VLForConditionalGeneration", qwen.qwen2_5_vl, qwen.known_as, "model"
        ),
    },
    tokenizers={"tokenizer": "Qwen2Tokenizer"},
    latent=_latent,
    reads=lambda _parts: ("tokenizer", TEXT_TOKENS),
    told=_told,
    check=_check,
    notes=flow_matching.notes,
    schedulers=schedulers.FLOW_MATCHING,
    architecture=lambda _parts: ("Qwen-Image", "qwen_image"),
)
