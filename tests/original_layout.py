"""A pipeline's weights as Stable Diffusion's first makers wrote them: one file, other names, fused
projections.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def write(folder: Path, file: Path, half: bool = False) -> None:
    """The file of a folder of Stable Diffusion 1.x or SDXL, its encoders with it."""
    read = {
        part.parent.name: load_file(part)
        for part in [
            *folder.glob("*/diffusion_pytorch_model.safetensors"),
            *folder.glob("*/model.safetensors"),
        ]
    }
    layers = sum(
        name.startswith("down_blocks.0.resnets.") and name.endswith("conv1.bias")
        for name in read["unet"]
    )
    state = {f"model.diffusion_model.{_unet(k, layers)}": v for k, v in read["unet"].items()}
    state |= {f"first_stage_model.{_vae(k)}": _convolved(k, v) for k, v in read["vae"].items()}
    first = "conditioner.embedders.0" if "text_encoder_2" in read else "cond_stage_model"
    words = {
        f"text_model.{k.removeprefix('text_model.')}": v for k, v in read["text_encoder"].items()
    }
    state |= {f"{first}.transformer.{k}": v for k, v in words.items()}
    if "text_encoder_2" in read:
        state |= {
            f"conditioner.embedders.1.model.{k}": v
            for k, v in _open_clip(read["text_encoder_2"]).items()
        }
    save_file(
        {k: (v.half() if half else v).contiguous() for k, v in state.items()},
        file,
        {"format": "pt"},
    )


def _unet(name: str, layers: int) -> str:
    stem, _, end = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{end}"
    found = re.fullmatch(r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name)
    assert found is not None, name
    side, block, kind, number, rest = (
        found[1],
        int(found[2] or 0),
        found[3],
        int(found[4]),
        found[5],
    )
    if kind == "resnets":
        part, _, end = rest.rpartition(".")
        rest = f"{_RESNET[part]}.{end}"
    if side == "mid_block":
        return f"middle_block.{2 * number if kind == 'resnets' else 1}.{rest}"
    start = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        behind_attention = 1 + (block == 0)
        return f"output_blocks.{start + layers}.{behind_attention}.{rest}"
    place = (
        f"input_blocks.{start + number + 1}"
        if side == "down_blocks"
        else f"output_blocks.{start + number}"
    )
    return f"{place}.{int(kind == 'attentions')}.{rest}"


def _vae(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        head, _, part = name.partition("mid_block.attentions.0.")
        stem, _, end = part.rpartition(".")
        return f"{head}mid.attn_1.{_ATTENTION[stem]}.{end}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", name)


def _convolved(name: str, value: Tensor) -> Tensor:
    """The attention in the middle was made of convolutions."""
    attention = ".attentions." in name and name.endswith("weight") and value.ndim == 2
    return value[..., None, None] if attention else value


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("text_model."): value for name, value in state.items()}
    found = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "text_projection": plain["text_projection.weight"].T,
    }
    found |= {f"ln_final.{end}": plain[f"final_layer_norm.{end}"] for end in ("weight", "bias")}
    for name, value in plain.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            continue
        place = f"transformer.resblocks.{layer[1]}"
        if layer[2] in _LAYER:
            found[f"{place}.{_LAYER[layer[2]]}.{layer[3]}"] = value
        elif layer[2] == "self_attn.q_proj":
            parts = [
                plain[f"encoder.layers.{layer[1]}.self_attn.{part}_proj.{layer[3]}"]
                for part in "qkv"
            ]
            found[f"{place}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
    return found
