"""LoRA files in kohya's keys (`lora_unet_..._to_q.lora_down.weight`, `.alpha`), as most public ones are."""

import re

from torch import Tensor

from rl_unlearn.errors import DataError

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_KNOWN = re.compile(r"(lora_\w+)\.(lora_down\.weight|lora_up\.weight|alpha)")


def from_kohya(state: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The same in diffusers' keys, ``unet.LAYER.lora_A.weight`` and ``lora_B``, alpha / rank in the latter.

    Raises DataError for a file of another kind than a UNet's LoRA, or one that lacks a factor.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_unet_state_dict_to_peft

    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _KNOWN.fullmatch(name)
        if match is None:
            raise DataError(f"adapter {file!r} is another kind than LoRA ({name}): merge it into its model")
        if not match[1].startswith("lora_unet_"):
            raise DataError(f"adapter {file!r} changes the text encoder ({name}), which is left alone here")
        layers.setdefault(match[1], {})[match[2]] = tensor
    plain: dict[str, Tensor] = {}
    for layer, parts in layers.items():
        down, up, alpha = (parts.get(part) for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        if down is None or up is None or down.ndim < 2 or (alpha is not None and alpha.numel() != 1):
            raise DataError(f"adapter {file!r} lacks one factor of {layer}: the file is cut, make it again")
        strength = 1.0 if alpha is None else float(alpha) / down.shape[0]
        plain[f"{layer}.lora_down.weight"] = down
        plain[f"{layer}.lora_up.weight"] = up if strength == 1 else up * strength
    try:
        found, _ = StableDiffusionPipeline.lora_state_dict(plain)
        found = convert_unet_state_dict_to_peft({k.removeprefix("unet."): v for k, v in found.items()})
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"adapter {file!r} is in keys that diffusers does not know: {str(error)[:200]}") from error
    return {f"unet.{name}": tensor for name, tensor in found.items()}
