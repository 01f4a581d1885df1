"""Rewrites the weights of a model folder as their makers do: as a variant, in shards."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from rl_unlearn.models import model_folder


def stem(folder: Path, component: str) -> str:
    return model_folder.read_layout(folder).networks[component].stem


def halve(
    folder: Path, component: str, variant: str = "fp16", keep: bool = False, by: float = 1.0
) -> None:
    """Writes the component's weights as a variant, in half precision and multiplied, as its makers
    do.
    """
    name = stem(folder, component)
    file = folder / component / f"{name}.safetensors"
    state = {key: (value * by).half() for key, value in load_file(file).items()}
    save_file(state, folder / component / f"{name}.{variant}.safetensors", {"format": "pt"})
    if not keep:
        file.unlink()


def split(folder: Path, component: str, index: str) -> None:
    """The component's variant as two shards and an index of this name."""
    name = stem(folder, component)
    file = folder / component / f"{name}.fp16.safetensors"
    state = load_file(file)
    keys, weight_map = sorted(state), {}
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        shard = f"{name}.fp16-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, file.parent / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (file.parent / index).write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    file.unlink()


def networks(folder: Path) -> list[str]:
    """The components that are networks."""
    return [
        name
        for name in model_folder.components(folder)
        if (folder / name / "config.json").is_file()
    ]
