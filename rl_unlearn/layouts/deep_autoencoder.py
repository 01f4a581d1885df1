"""Names of the weights of an AutoencoderDC (Chen et al. 2024, arXiv 2410.10733)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_unlearn.layouts.names import Names, both, few, under

_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_SCALES = ((), (), (), (5,), (5,), (5,))
_LAYERS = {"encoder": (2, 2, 2, 3, 3, 3), "decoder": (3, 3, 3, 3, 3, 3)}


def widths(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Lists the widths of the encoder's blocks; each but the last one halves its images."""
    return tuple(config.get("encoder_block_out_channels", _WIDTHS))


def vae(config: Mapping[str, Any]) -> Names | None:
    """Names the weights of an AutoencoderDC; None for norms of another kind than Sana's."""
    norms = config.get("decoder_norm_types", "rms_norm")
    if {*((norms,) if isinstance(norms, str) else norms)} != {"rms_norm"}:
        return None
    return _side("encoder", config) | _side("decoder", config) | both("decoder.norm_out")


def gated_convolution(normed: bool) -> Names:
    """Names the weights of a GLUMBConv."""
    names = both("conv_inverted", "conv_depth") | {"conv_point.weight"}
    return names | (both("norm") if normed else set())


def _side(side: str, config: Mapping[str, Any]) -> Names:
    """Names the weights of encoder or decoder: blocks of layers, and what halves the image behind,
    or doubles it before.
    """
    count = few(len(config.get(f"{side}_block_out_channels", _WIDTHS)))
    kinds = config.get(f"{side}_block_types", "ResBlock")
    kinds = (kinds,) * count if isinstance(kinds, str) else kinds
    layers = config.get(f"{side}_layers_per_block", _LAYERS[side])
    scales = config.get(f"{side}_qkv_multiscales", _SCALES)
    encodes = side == "encoder"
    inner, outer = ("conv_out", "conv_in") if encodes else ("conv_in", "conv_out")
    names = both(inner, outer if layers[0] else f"{outer}.conv")
    for i, (kind, number, sizes) in enumerate(zip(kinds, layers, scales, strict=True)):
        place, resampled = f"{'down' if encodes else 'up'}_blocks.{i}", number > 0 and i < count - 1
        first = int(resampled and not encodes)
        for j in range(few(number) if number else 0):
            names |= under(f"{place}.{first + j}", _layer(kind, sizes))
        if resampled:
            names |= both(f"{place}.{number if encodes else 0}.conv")
    return under(side, names)


def _layer(kind: str, scales: Sequence[int]) -> Names:
    if kind == "ResBlock":
        return both("conv1", "norm") | {"conv2.weight"}
    names = {f"attn.to_{part}.weight" for part in ("q", "k", "v", "out")} | both("attn.norm_out")
    for i in range(len(scales)):
        names |= {f"attn.to_qkv_multiscale.{i}.proj_{end}.weight" for end in ("in", "out")}
    return names | under("conv_out", gated_convolution(normed=True))
