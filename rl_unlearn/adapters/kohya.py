"""LoRA files in kohya's keys (`lora_unet_..._to_q.lora_down.weight`, `.alpha`), as most public ones
are.
"""

import re
from types import SimpleNamespace

import torch
from torch import Tensor

from rl_unlearn.errors import DataError
from rl_unlearn.layouts.layout import Layout

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")
SDXL_LAYERS = 2
"""Layers of a block of SDXL's UNet, of which kohya's trainer knows no other."""
_BLOCKS = re.compile(r"(down_blocks|up_blocks|mid_block)(?:_(\d+))?_attentions_(\d+)_(.+)")
_KNOWN = re.compile(r"(lora_\w+)\.(lora_down\.weight|lora_up\.weight|alpha)")


def from_kohya(state: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """Returns the same in diffusers' keys, ``unet.LAYER.lora_A.weight`` and ``lora_B``, alpha /
    rank in the latter.

    FLUX's begin with ``transformer.``. Raises DataError for a file of another kind than a network's
    LoRA, for SD 3, whose keys diffusers does not know, and for one that lacks a factor.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _KNOWN.fullmatch(name)
        if match is None:
            raise DataError(
                f"adapter {file!r} is another kind than LoRA ({name}): merge it into its model"
            )
        if not match[1].startswith("lora_unet_"):
            raise DataError(
                f"adapter {file!r} changes the text encoder ({name}), which is left alone here"
            )
        layers.setdefault(match[1], {})[match[2]] = tensor
    plain: dict[str, Tensor] = {}
    for layer, parts in layers.items():
        down, up, alpha = (
            parts.get(part) for part in ("lora_down.weight", "lora_up.weight", "alpha")
        )
        if (
            down is None
            or up is None
            or down.ndim < 2
            or (alpha is not None and alpha.numel() != 1)
        ):
            raise DataError(
                f"adapter {file!r} lacks one factor of {layer}: the file is cut, make it again"
            )
        strength = 1.0 if alpha is None else float(alpha) / down.shape[0]
        plain[f"{layer}.lora_down.weight"] = down
        plain[f"{layer}.lora_up.weight"] = up if strength == 1 else up * strength
    try:
        return _flux(plain) if _is_flux(plain) else _unet(plain)
    except (ValueError, KeyError, RuntimeError, AssertionError, IndexError) as error:
        raise DataError(
            f"adapter {file!r} is in keys that diffusers does not know: {str(error)[:200]}"
        ) from error


def _is_flux(state: dict[str, Tensor]) -> bool:
    return any(
        name.startswith(("lora_unet_double_blocks_", "lora_unet_single_blocks_")) for name in state
    )


def _unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names the layers of Stable Diffusion's UNet, or of SDXL's, whose blocks have their first
    maker's names.
    """
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import convert_unet_state_dict_to_peft

    if any("joint_blocks" in name for name in state):
        raise ValueError("it is of Stable Diffusion 3; save it in diffusers' keys")
    about = SimpleNamespace(layers_per_block=SDXL_LAYERS)
    converted, _ = StableDiffusionXLPipeline.lora_state_dict(state, unet_config=about)
    converted = convert_unet_state_dict_to_peft(
        {k.removeprefix("unet."): v for k, v in converted.items()}
    )
    return {f"unet.{name}": tensor for name, tensor in converted.items()}


def _flux(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names the layers of FLUX's transformer, in which queries, keys and values are one layer
    there, three here.
    """
    from diffusers import FluxPipeline

    converted: dict[str, Tensor] = FluxPipeline.lora_state_dict(state)
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def to_kohya(state: dict[str, Tensor], layout: Layout, layers: object) -> dict[str, Tensor]:
    """Returns an adapter's state, ``LAYER.lora_A.weight``, in the keys that kohya's trainer reads
    for this family.

    ``layers``: in a block of the network. Raises DataError for a transformer, and for an SDXL of
    another build.
    """
    if layout.kohya is None:
        raise DataError(
            f"kohya's keys are for UNets, and this is a {layout.pipeline}: use --format diffusers"
        )
    sdxl = layout.kohya == "counted"
    if sdxl and layers != SDXL_LAYERS:
        raise DataError(
            f"kohya's keys know no SDXL with {layers} layers a block: use --format diffusers"
        )
    named = {}
    for name, tensor in state.items():
        layer, _, factor = name.partition(".lora_")
        layer = layer.replace(".", "_")
        key = f"lora_unet_{_first_name(layer) if sdxl else layer}"
        down = factor.startswith("A")
        named[f"{key}.lora_{'down' if down else 'up'}.weight"] = tensor
        if down:
            named[f"{key}.alpha"] = torch.tensor(float(tensor.shape[0]))
    return named


def _first_name(layer: str) -> str:
    """Returns what SDXL's makers call a layer: their blocks are counted through, resampling among
    them.
    """
    match = _BLOCKS.fullmatch(layer)
    if match is None:
        raise DataError(f"kohya's keys have no name for the layer {layer}: use --format diffusers")
    side, block, number, rest = match[1], int(match[2] or 0), int(match[3]), match[4]
    if side == "mid_block":
        return f"middle_block_1_{rest}"
    place = block * (SDXL_LAYERS + 1) + number
    return (
        f"input_blocks_{place + 1}_1_{rest}"
        if side == "down_blocks"
        else f"output_blocks_{place}_1_{rest}"
    )
