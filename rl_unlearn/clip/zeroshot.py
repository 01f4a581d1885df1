"""Zero-shot evidence by CLIP: how probable each class of a domain is on an image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from rl_unlearn import canvas
from rl_unlearn.clip import clip_source
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.vision import open_clip

Tokenizer = Callable[[list[str]], Tensor]


def load_open_clip(
    spec: str, canvas_name: Literal["reward", "selection"], key: str | None = None
) -> tuple[open_clip.CLIP, Tokenizer]:
    """Returns a CLIP and its tokenizer, fp32 and in eval mode.

    ``spec`` is `canvas` (then the shipped CLIP ``canvas_name``), a folder in open_clip layout, or
    `arch/pretrained`; ``key`` is the setting that said so. Raises DataError if it cannot be had.
    """
    key = key or f"{canvas_name}.clip"
    clip_source.check(key, spec)
    if spec == "canvas" or Path(spec).is_dir():
        folder = canvas.clip_path(canvas_name) if spec == "canvas" else Path(spec).resolve()
        name, pretrained = f"local-dir:{folder}", None
    else:
        name, pretrained = spec.split("/")
        clip_source.check_tag(key, spec, open_clip.list_pretrained_tags_by_model(name))
    try:
        model, _ = open_clip.create_model_from_pretrained(
            name, pretrained=pretrained, return_transform=True
        )
        tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        # Of weights that do not fit, torch names the keys in the lines below the first.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{key}: CLIP {spec!r} cannot be loaded: {reason}") from error
    return model.float().eval().requires_grad_(False), tokenizer


def fetch(key: str, spec: str) -> None:
    """Fetches the weights that `arch/pretrained` names before a run begins; raises DataError if
    they are not had.

    Actors elsewhere fetch their own. ``key`` is the setting that said so.
    """
    clip_source.check(key, spec)
    if spec == "canvas" or Path(spec).is_dir():
        return
    name, tag = spec.split("/")
    clip_source.check_tag(key, spec, open_clip.list_pretrained_tags_by_model(name))
    try:
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except (
        Exception
    ) as error:  # no network, no space, no such file: the library raises bare ones, too
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{key}={spec}: its weights cannot be fetched ({reason}): fetch them once, or name a "
            "folder"
        ) from error


@torch.no_grad()
def text_features(
    clip: open_clip.CLIP, tokenizer: Tokenizer, texts: Sequence[str]
) -> Float[Tensor, "texts features"]:
    """Normalised text embeddings, on the device of the CLIP."""
    tokens = tokenizer(list(texts)).to(clip.logit_scale.device)
    return nn.functional.normalize(clip.encode_text(tokens), dim=-1)


class ZeroShot:
    """CLIP evidence over the classes of each domain of a prompt book."""

    def __init__(
        self,
        clip: open_clip.CLIP,
        tokenizer: Tokenizer,
        phrases: dict[str, tuple[str, ...]],
        device: torch.device,
    ):
        self._clip = clip.to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._size = (
            clip.visual.image_size
            if isinstance(clip.visual.image_size, tuple)
            else (clip.visual.image_size,) * 2
        )
        mean = getattr(clip.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        std = getattr(clip.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
        self._mean = torch.tensor(mean, device=device)[:, None, None]
        self._std = torch.tensor(std, device=device)[:, None, None]
        self._check_told_apart(phrases)
        self.classes = {
            domain: text_features(clip, tokenizer, texts) for domain, texts in phrases.items()
        }
        self._scale = clip.logit_scale.detach().exp()

    def _check_told_apart(self, phrases: dict[str, tuple[str, ...]]) -> None:
        """Raises ConfigError if two classes are the same to it: what its context cuts off, or its
        vocabulary does not have.
        """
        for domain, texts in phrases.items():
            seen: dict[tuple[int, ...], str] = {}
            for text, tokens in zip(texts, self._tokenizer(list(texts)).tolist(), strict=True):
                if seen.setdefault(tuple(tokens), text) != text:
                    raise ConfigError(
                        f"a CLIP cannot tell the {domain} {text!r} from {seen[tuple(tokens)]!r}: "
                        "both give the same tokens; shorten what they share "
                        f"(prompts.{domain}_template), or take a longer context"
                    )

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, "batch classes"]]:
        """Log-probabilities of the classes of each domain; images in [0, 1], any size."""
        features = self.embed(images)
        return {
            domain: (self._scale * features @ classes.T).log_softmax(dim=-1)
            for domain, classes in self.classes.items()
        }

    def embed(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Image features of length 1; images in [0, 1], any size."""
        images = images.to(self._device)
        if tuple(images.shape[-2:]) != tuple(self._size):
            images = nn.functional.interpolate(
                images, self._size, mode="bicubic", antialias=True
            ).clamp(0, 1)
        return nn.functional.normalize(
            self._clip.encode_image((images - self._mean) / self._std), dim=-1
        )

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Text features of length 1."""
        return text_features(self._clip, self._tokenizer, texts)
