"""Names of all weights of the networks that families share, by their configuration, without
building them.

They are diffusers' UNet2DConditionModel and AutoencoderKL (Rombach et al. 2022, arXiv 2112.10752,
and, larger, Podell et al. 2023, arXiv 2307.01952) and transformers' text encoders. A configuration
of another kind gives None: then only loading can tell.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_unlearn.layouts.layout import Network
from rl_unlearn.layouts.names import Names, both, few, under

_PLAIN = {
    "class_embed_type": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "time_embedding_type": "positional", "resnet_time_scale_shift": "default",
    "dual_cross_attention": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "time_cond_proj_dim": None,
    "attention_type": "default",
    "resnet_skip_time_act": False, "only_cross_attention": False, "time_embedding_act_fn": None,
    "cross_attention_norm": None, "mid_block_only_cross_attention": None,
}  # fmt: skip
"""What a UNet's configuration says, or leaves out, if it is Stable Diffusion's."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a UNet2DConditionModel."""
    added = config.get("addition_embed_type")
    if any(config.get(key, plain) != plain for key, plain in _PLAIN.items()) or added not in (
        None,
        "text_time",
    ):
        return None
    down = config.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = config.get("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    if not {*down} <= {"CrossAttnDownBlock2D", "DownBlock2D"} or not {*up} <= {
        "CrossAttnUpBlock2D",
        "UpBlock2D",
    }:
        return None
    widths = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    layers, depth = config.get("layers_per_block", 2), config.get("transformer_layers_per_block", 1)
    depths = tuple(depth) if isinstance(depth, list | tuple) else (depth,) * len(widths)
    if not isinstance(layers, int) or not len(down) == len(up) == len(widths) == len(depths):
        return None
    if not all(isinstance(count, int) for count in depths):
        return None
    few(layers * max(depths)), few(len(widths))
    names = both(
        "conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out"
    )
    width, skips = widths[0], [widths[0]]
    if added == "text_time":
        names |= both("add_embedding.linear_1", "add_embedding.linear_2")
    for i, (kind, out, depth) in enumerate(zip(down, widths, depths, strict=True)):
        block = f"down_blocks.{i}"
        for j in range(layers):
            names |= under(f"{block}.resnets.{j}", _resnet(width != out, timed=True))
            if kind.startswith("Cross"):
                names |= under(f"{block}.attentions.{j}", _transformer(depth))
            width = out
            skips.append(out)
        if i < len(widths) - 1:
            names |= both(f"{block}.downsamplers.0.conv")
            skips.append(out)
    for j in range(2):
        names |= under(f"mid_block.resnets.{j}", _resnet(False, timed=True))
    names |= under("mid_block.attentions.0", _transformer(depths[-1]))
    for i, (kind, out, depth) in enumerate(
        zip(up, reversed(widths), reversed(depths), strict=True)
    ):
        block = f"up_blocks.{i}"
        for j in range(layers + 1):
            names |= under(f"{block}.resnets.{j}", _resnet(width + skips.pop() != out, timed=True))
            if kind.startswith("Cross"):
                names |= under(f"{block}.attentions.{j}", _transformer(depth))
            width = out
        if i < len(widths) - 1:
            names |= both(f"{block}.upsamplers.0.conv")
    return names


def vae(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of an AutoencoderKL."""
    down, up = (
        config.get("down_block_types", ("DownEncoderBlock2D",)),
        config.get("up_block_types", ("UpDecoderBlock2D",)),
    )
    widths, layers = (
        tuple(config.get("block_out_channels", (64,))),
        config.get("layers_per_block", 1),
    )
    if {*down, *up} != {"DownEncoderBlock2D", "UpDecoderBlock2D"} or not isinstance(layers, int):
        return None
    few(layers), few(len(widths))
    names: Names = set()
    for side, count, order in (("encoder", layers, widths), ("decoder", layers + 1, widths[::-1])):
        names |= both(f"{side}.conv_in", f"{side}.conv_norm_out", f"{side}.conv_out")
        width = order[0]
        for i, out in enumerate(order):
            block = f"{side}.{'down' if side == 'encoder' else 'up'}_blocks.{i}"
            for j in range(count):
                names |= under(f"{block}.resnets.{j}", _resnet(width != out, timed=False))
                width = out
            if i < len(order) - 1:
                names |= both(
                    f"{block}.{'downsamplers' if side == 'encoder' else 'upsamplers'}.0.conv"
                )
        for j in range(2):
            names |= under(f"{side}.mid_block.resnets.{j}", _resnet(False, timed=False))
        if config.get("mid_block_add_attention", True):
            parts = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
            names |= under(f"{side}.mid_block.attentions.0", both(*parts))
    names |= both("quant_conv") if config.get("use_quant_conv", True) else set()
    return names | (both("post_quant_conv") if config.get("use_post_quant_conv", True) else set())


def vae_known_as(names: Iterable[str]) -> Names:
    """Older files have other words for the parts of an attention."""
    known = set()
    for name in names:
        if ".attentions." in name:
            head, _, end = name.rpartition(".")
            stem, _, part = head.rpartition(".")
            name = f"{stem}.{_OLD_ATTENTION.get(part, part)}.{end}"
        known.add(name)
    return known


def clip_text(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a CLIPTextModel, without the `text_model.` that some versions write
    before each.
    """
    if config.get("model_type", "clip_text_model") != "clip_text_model":
        return None
    names = {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight"} | both(
        "final_layer_norm"
    )
    parts = [f"self_attn.{part}_proj" for part in "qkv"] + [
        "self_attn.out_proj",
        "layer_norm1",
        "layer_norm2",
    ]
    for i in range(few(config.get("num_hidden_layers", 12))):
        names |= under(f"encoder.layers.{i}", both(*parts, "mlp.fc1", "mlp.fc2"))
    return names


def clip_text_projected(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a CLIPTextModelWithProjection."""
    names = clip_text(config)
    return None if names is None else names | {"text_projection.weight"}


def text_known_as(names: Iterable[str]) -> Names:
    """CLIP's without their prefix, and without a table of positions, which is no weight."""
    plain = {name.removeprefix("text_model.") for name in names}
    return {name for name in plain if not name.endswith("embeddings.position_ids")}


def t5_encoder(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of a T5EncoderModel, version 1.1 (Raffel et al. 2020, arXiv 1910.10683)."""
    if config.get("model_type", "t5") != "t5" or not str(
        config.get("feed_forward_proj", "relu")
    ).startswith("gated"):
        return None
    names = {"shared.weight", "encoder.final_layer_norm.weight"}
    attention, dense = "layer.0.SelfAttention", "layer.1.DenseReluDense"
    parts = [f"{attention}.{part}" for part in "qkvo"] + [
        f"{dense}.{part}" for part in ("wi_0", "wi_1", "wo")
    ]
    for i in range(few(config.get("num_layers", 6))):
        layers = [*parts, "layer.0.layer_norm", "layer.1.layer_norm"]
        names |= under(f"encoder.block.{i}", {f"{layer}.weight" for layer in layers})
    return names | {f"encoder.block.0.{attention}.relative_attention_bias.weight"}


def t5_known_as(names: Iterable[str]) -> Names:
    """Returns names with a single one for the table of words, which has two."""
    return {name for name in names if name != "encoder.embed_tokens.weight"}


def _resnet(shortcut: bool, timed: bool) -> Names:
    parts = (
        ["norm1", "conv1", "norm2", "conv2"]
        + ["time_emb_proj"] * timed
        + ["conv_shortcut"] * shortcut
    )
    return both(*parts)


def _transformer(depth: int) -> Names:
    names = both("norm", "proj_in", "proj_out")
    block = both(
        "norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"
    )
    block |= {f"attn{n}.to_{part}.weight" for n in (1, 2) for part in "qkv"}
    for i in range(depth):
        names |= under(f"transformer_blocks.{i}", block)
    return names


UNET = Network("UNet2DConditionModel", unet)
VAE = Network("AutoencoderKL", vae, vae_known_as)
CLIP_TEXT = Network("CLIPTextModel", clip_text, text_known_as, "model")
CLIP_PROJECTED = Network("CLIPTextModelWithProjection", clip_text_projected, text_known_as, "model")
T5 = Network("T5EncoderModel", t5_encoder, t5_known_as, "model")
