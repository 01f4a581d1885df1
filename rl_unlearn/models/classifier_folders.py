"""Classifiers from folders: transformers' layout, or a timm ViT as UnlearnCanvas trains them;
safetensors only.

A classifier may judge or reward, not both; a judge is a folder with two of them, `object/` and
`style/`. Each holds `config.json` and `model.safetensors`:

- transformers: `config.json` with `architectures` and `id2label`, as `save_pretrained` writes it;
- timm: `config.json` with `architecture` (UnlearnCanvas: `vit_large_patch16_224.augreg_in21k`) and
  `label_names` in the order of the head's rows, and `SHA256SUMS` beside the weights (`sha256sum
  model.safetensors > SHA256SUMS`).

UnlearnCanvas's own `.pth` files are pickles and are refused: converting one once is a few lines of
PyTorch.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.files.json_file import read_object
from rl_unlearn.files.tensor_file import read_tensors
from rl_unlearn.models.model_folder import compare

WEIGHTS = "model.safetensors"
_PICKLES = ("*.pth", "*.pt", "*.bin", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class FolderClassifier:
    """One classifier; called with images in [0, 1] of any size it gives logits of the world's
    classes and features.
    """

    kind: str
    network: Any
    """A module of timm or of transformers."""
    rows: Int[Tensor, " classes"]
    """Row of the head for each class of the world, in the world's order."""
    size: tuple[int, int]
    """Height and width, in pixels, that the network expects."""
    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]
    classes: int
    """Rows of the head, of which ``rows`` are some."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch features"]]:
        """Logits, and the pooled features under the head."""
        if tuple(images.shape[-2:]) != self.size:
            images = nn.functional.interpolate(images, self.size, mode="bilinear", antialias=True)
        images = (images - self.mean) / self.std
        if self.kind == "timm":
            features = self.network.forward_head(
                self.network.forward_features(images), pre_logits=True
            )
            logits = self.network.get_classifier()(features)
        else:
            output = self.network(pixel_values=images, output_hidden_states=True)
            logits, features = output.logits, _pooled(output.hidden_states[-1])
        return logits[:, self.rows], features.flatten(1)


def load_folder(folder: Path, names: tuple[str, ...], device: torch.device) -> FolderClassifier:
    """Returns the classifier in ``folder`` for the classes ``names``, matched by label, never by
    position.

    Raises DataError for missing, pickled, altered or unfit files, ConfigError for classes it does
    not know.
    """
    about = _read(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        hint = (
            f"only {pickled[0]}, a pickle, which can run code when read: convert it to"
            if pickled
            else "no"
        )
        raise DataError(f"classifier {str(folder)!r} has {hint} {WEIGHTS}")
    if "architecture" in about:
        return _timm(folder, about, names, device)
    if "architectures" in about:
        return _transformers(folder, names, device)
    raise DataError(
        f"{str(folder / 'config.json')!r} names neither timm's 'architecture' nor 'architectures'"
    )


def _timm(
    folder: Path, about: dict[str, Any], names: tuple[str, ...], device: torch.device
) -> FolderClassifier:
    from rl_unlearn.vision import timm

    labels = about.get("label_names")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(
            f"classifier {str(folder)!r}: list the classes as label_names in config.json, in the "
            "head's order"
        )
    architecture = str(about["architecture"])
    if ":" in architecture or "/" in architecture:  # timm would fetch its configuration
        raise DataError(
            f"classifier {str(folder)!r} names an architecture of another place ({architecture})"
        )
    _check_sum(folder)
    weights = _tensors(folder)
    heads = [
        tensor.shape[0]
        for name, tensor in weights.items()
        if name.endswith(("head.weight", "fc.weight"))
    ]
    if heads[-1:] != [len(labels)]:
        raise DataError(
            f"classifier {str(folder)!r}: its head has {heads[-1] if heads else 'no'} rows for "
            f"{len(labels)} label_names"
        )
    try:
        network = timm.create_model(architecture, pretrained=False, num_classes=len(labels))
        network.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]  # torch names the keys below its first line
        raise DataError(f"classifier {str(folder)!r} does not fit timm: {reason}") from error
    # UnlearnCanvas normalises its images to [-1, 1] at the network's own size; a config.json may
    # say otherwise.
    written = about.get("pretrained_cfg", {})
    if not isinstance(written, dict):
        raise DataError(f"classifier {str(folder)!r}: pretrained_cfg in config.json is no object")
    settings: Any = network.pretrained_cfg
    size = tuple((settings | written).get("input_size") or (3, 224, 224))[-2:]
    mean, std = written.get("mean", [0.5] * 3), written.get("std", [0.5] * 3)
    return _classifier("timm", network, folder, labels, names, size, mean, std, device)


def _transformers(folder: Path, names: tuple[str, ...], device: torch.device) -> FolderClassifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        network, report = AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"classifier {str(folder)!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    compare(folder, "the classifier", {*report["missing_keys"]}, {*report["unexpected_keys"]})
    labels = [network.config.id2label[i] for i in range(network.config.num_labels)]
    mean = std = [0.5] * 3
    size: Any = getattr(network.config, "image_size", 224)
    if (folder / "preprocessor_config.json").is_file():
        processor = AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        mean, std = processor.image_mean or mean, processor.image_std or std
        wanted = dict(processor.size or {})
        side = wanted.get("shortest_edge", size)
        size = (wanted.get("height", side), wanted.get("width", side))
    size = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return _classifier("transformers", network, folder, labels, names, size, mean, std, device)


def _classifier(
    kind: str, network: nn.Module, folder: Path, labels: list[str], names: tuple[str, ...],
    size: tuple[int, ...], mean: list[float], std: list[float], device: torch.device,
) -> FolderClassifier:  # fmt: skip
    place = {_plain(label): row for row, label in enumerate(labels)}
    if len(place) != len(labels):
        raise DataError(
            f"classifier {str(folder)!r} has a label twice: its order cannot be trusted"
        )
    unknown = [name for name in names if _plain(name) not in place]
    if unknown:
        raise ConfigError(
            f"classifier {str(folder)!r} does not know {', '.join(unknown[:5])}: it knows "
            f"{', '.join(labels[:10])}; take names from its labels, or another classifier"
        )
    rows = torch.tensor([place[_plain(name)] for name in names], device=device)
    centre, scale = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
        for values in (mean, std)
    )
    network = network.to(device).eval().requires_grad_(False)
    return FolderClassifier(
        kind, network, rows, (int(size[0]), int(size[1])), centre, scale, len(labels)
    )


def _plain(label: str) -> str:
    """Labels as people mean them: `Human_Man` is `human man`."""
    return label.replace("_", " ").strip().lower()


def _pooled(states: Tensor) -> Tensor:
    """Mean over tokens (batch, tokens, width) or positions (batch, channels, height, width)."""
    return states.mean(dim=1) if states.ndim == 3 else states.mean(dim=(2, 3))


def _read(folder: Path) -> dict[str, Any]:
    return read_object(
        folder / "config.json", "a classifier must be in the layout of transformers or timm"
    )


def _check_sum(folder: Path) -> None:
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"classifier {str(folder)!r} has no SHA256SUMS: where you trust the file, run "
            f"`sha256sum {WEIGHTS} > SHA256SUMS`"
        ) from error
    sums = {
        name.lstrip("*"): digest
        for digest, _, name in (line.strip().partition("  ") for line in lines)
        if name
    }
    with (folder / WEIGHTS).open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if sums.get(WEIGHTS) != actual:
        raise DataError(
            f"classifier {str(folder / WEIGHTS)!r} is not the file that SHA256SUMS names: fetch it "
            "again"
        )


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor.float()
        for name, tensor in read_tensors(folder / WEIGHTS, "classifier").items()
    }
