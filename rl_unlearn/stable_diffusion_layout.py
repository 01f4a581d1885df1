"""Names of all weights of Stable Diffusion's networks by their configuration, without building them.

The networks are diffusers' UNet2DConditionModel and AutoencoderKL (Rombach et al. 2022, arXiv 2112.10752, as
Stable Diffusion 1.x and 2.x use them) and transformers' CLIPTextModel. A configuration of another kind gives None:
then only loading can tell.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Names = set[str]
_PLAIN = {
    "class_embed_type": None, "addition_embed_type": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "time_embedding_type": "positional", "resnet_time_scale_shift": "default", "dual_cross_attention": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "time_cond_proj_dim": None, "attention_type": "default",
    "resnet_skip_time_act": False, "only_cross_attention": False, "time_embedding_act_fn": None,
    "cross_attention_norm": None, "mid_block_only_cross_attention": None,
}  # fmt: skip
"""What a UNet's configuration says, or leaves out, if it is Stable Diffusion's."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet(config: Mapping[str, Any]) -> Names | None:
    """Of a UNet2DConditionModel."""
    if any(config.get(key, plain) != plain for key, plain in _PLAIN.items()):
        return None
    down = config.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = config.get("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    if not {*down} <= {"CrossAttnDownBlock2D", "DownBlock2D"} or not {*up} <= {"CrossAttnUpBlock2D", "UpBlock2D"}:
        return None
    widths = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    layers, depth = (
        config.get(key, plain) for key, plain in (("layers_per_block", 2), ("transformer_layers_per_block", 1))
    )
    if not isinstance(layers, int) or not isinstance(depth, int) or not len(down) == len(up) == len(widths):
        return None
    attention = _transformer(depth)
    _few(layers * depth), _few(len(widths))
    names = _both("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out")
    width, skips = widths[0], [widths[0]]
    for i, (kind, out) in enumerate(zip(down, widths, strict=True)):
        block = f"down_blocks.{i}"
        for j in range(layers):
            names |= _under(f"{block}.resnets.{j}", _resnet(width != out, timed=True))
            if kind.startswith("Cross"):
                names |= _under(f"{block}.attentions.{j}", attention)
            width = out
            skips.append(out)
        if i < len(widths) - 1:
            names |= _both(f"{block}.downsamplers.0.conv")
            skips.append(out)
    for j in range(2):
        names |= _under(f"mid_block.resnets.{j}", _resnet(False, timed=True))
    names |= _under("mid_block.attentions.0", attention)
    for i, (kind, out) in enumerate(zip(up, reversed(widths), strict=True)):
        block = f"up_blocks.{i}"
        for j in range(layers + 1):
            names |= _under(f"{block}.resnets.{j}", _resnet(width + skips.pop() != out, timed=True))
            if kind.startswith("Cross"):
                names |= _under(f"{block}.attentions.{j}", attention)
            width = out
        if i < len(widths) - 1:
            names |= _both(f"{block}.upsamplers.0.conv")
    return names


def vae(config: Mapping[str, Any]) -> Names | None:
    """Of an AutoencoderKL."""
    down, up = (
        config.get("down_block_types", ("DownEncoderBlock2D",)),
        config.get("up_block_types", ("UpDecoderBlock2D",)),
    )
    widths, layers = tuple(config.get("block_out_channels", (64,))), config.get("layers_per_block", 1)
    if {*down, *up} != {"DownEncoderBlock2D", "UpDecoderBlock2D"} or not isinstance(layers, int):
        return None
    _few(layers), _few(len(widths))
    names: Names = set()
    for side, count, order in (("encoder", layers, widths), ("decoder", layers + 1, widths[::-1])):
        names |= _both(f"{side}.conv_in", f"{side}.conv_norm_out", f"{side}.conv_out")
        width = order[0]
        for i, out in enumerate(order):
            block = f"{side}.{'down' if side == 'encoder' else 'up'}_blocks.{i}"
            for j in range(count):
                names |= _under(f"{block}.resnets.{j}", _resnet(width != out, timed=False))
                width = out
            if i < len(order) - 1:
                names |= _both(f"{block}.{'downsamplers' if side == 'encoder' else 'upsamplers'}.0.conv")
        for j in range(2):
            names |= _under(f"{side}.mid_block.resnets.{j}", _resnet(False, timed=False))
        if config.get("mid_block_add_attention", True):
            parts = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
            names |= _under(f"{side}.mid_block.attentions.0", _both(*parts))
    names |= _both("quant_conv") if config.get("use_quant_conv", True) else set()
    return names | (_both("post_quant_conv") if config.get("use_post_quant_conv", True) else set())


def text_encoder(config: Mapping[str, Any]) -> Names | None:
    """Of a CLIPTextModel, without the `text_model.` that older programs write before each."""
    if config.get("model_type", "clip_text_model") != "clip_text_model":
        return None
    names = {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight"} | _both("final_layer_norm")
    parts = [f"self_attn.{part}_proj" for part in "qkv"] + ["self_attn.out_proj", "layer_norm1", "layer_norm2"]
    for i in range(_few(config.get("num_hidden_layers", 12))):
        names |= _under(f"encoder.layers.{i}", _both(*parts, "mlp.fc1", "mlp.fc2"))
    return names


def known_as(component: str, names: Iterable[str]) -> Names:
    """Names in a file as the libraries read them: older spellings are known, and a table of positions is no weight."""
    found = set()
    for name in names:
        if component == "text_encoder":
            name = name.removeprefix("text_model.")
        if component == "vae" and ".attentions." in name:
            head, _, end = name.rpartition(".")
            stem, _, part = head.rpartition(".")
            name = f"{stem}.{_OLD_ATTENTION.get(part, part)}.{end}"
        if not name.endswith("embeddings.position_ids"):
            found.add(name)
    return found


def _few(count: Any) -> int:
    """A number of layers as networks have it; ValueError for another one, before it is counted to."""
    if not isinstance(count, int) or not 0 < count <= 1000:
        raise ValueError(f"{count!r} layers")
    return count


def _both(*layers: str) -> Names:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def _under(place: str, names: Names) -> Names:
    return {f"{place}.{name}" for name in names}


def _resnet(shortcut: bool, timed: bool) -> Names:
    parts = ["norm1", "conv1", "norm2", "conv2"] + ["time_emb_proj"] * timed + ["conv_shortcut"] * shortcut
    return _both(*parts)


def _transformer(depth: int) -> Names:
    names = _both("norm", "proj_in", "proj_out")
    block = _both("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
    block |= {f"attn{n}.to_{part}.weight" for n in (1, 2) for part in "qkv"}
    for i in range(depth):
        names |= _under(f"transformer_blocks.{i}", block)
    return names


LAYOUTS = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
