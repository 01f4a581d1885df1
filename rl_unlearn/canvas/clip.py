"""The two CLIP models of the canvas, loaded through open_clip's own factory.

A model maps images (B, 3, 32, 32), normalised by `model.visual.image_mean` and
`model.visual.image_std`, with `encode_image`, and tokens (B, 12) with `encode_text`, both to (B,
64).
"""

from pathlib import Path

import torch
from torch import Tensor

from rl_unlearn.vision import open_clip


def load_clip(path: Path | str) -> tuple[open_clip.CLIP, open_clip.tokenizer.HFTokenizer]:
    """Model in float32 and evaluation mode, and its tokenizer (list of strings -> LongTensor (B,
    12)).

    Works on any folder in open_clip layout; reads safetensors and nothing else, and needs no
    network.
    """
    path = Path(path)
    if not (path / "open_clip_model.safetensors").is_file():
        raise FileNotFoundError(
            f"no open_clip_model.safetensors in {path}; other weight formats are not read"
        )
    name = f"local-dir:{path}"
    model = open_clip.create_model(name, precision="fp32", device="cpu")
    return model.eval(), open_clip.get_tokenizer(name)


def normalise(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] -> what `encode_image` wants."""
    mean = torch.tensor(model.visual.image_mean, device=images.device)[:, None, None]
    std = torch.tensor(model.visual.image_std, device=images.device)[:, None, None]
    return (images - mean) / std
