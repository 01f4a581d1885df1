"""The critic and the CLIPs without weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.plan.counting import Count, count
from experiments.plan.hollow import META
from rl_unlearn import canvas
from rl_unlearn.config import Config
from rl_unlearn.critic import Critic
from rl_unlearn.files.json_file import read_object
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import outcome_names
from rl_unlearn.vision import open_clip


@dataclass(frozen=True)
class Eye:
    """A CLIP."""

    network: nn.Module
    width: int
    """Features of an image or a text."""
    image: Count
    """One pass over one image."""
    slope: Count
    """One gradient of what it sees by the image."""


@dataclass(frozen=True)
class Judgement:
    """What the critic takes, for one state."""

    network: Critic
    fit: Count
    gradient: Count
    """One gradient of the value with respect to the state."""
    outcomes: int


def eye(spec: str, name: Literal["reward", "selection"], book: PromptBook) -> Eye | None:
    """Returns the CLIP that a setting names, for the book's classes; None if only loading it can
    tell what it is.
    """
    settings = _settings(spec, name)
    if settings is None:
        return None
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    try:
        with META:
            network = kind(**settings).requires_grad_(False).eval()
        side = network.visual.image_size
        size = side if isinstance(side, tuple) else (side, side)
        picture = torch.empty(1, 3, *size, device=META, requires_grad=True)
        classes = torch.empty(
            settings["embed_dim"], sum(map(len, book.phrases.values())), device=META
        )
        image, slope = (
            count(lambda: network.encode_image(picture) @ classes, network.parameters(), trained)
            for trained in (False, True)
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, OSError):
        return None
    return Eye(network, settings["embed_dim"], image, slope)


def _settings(spec: str, name: Literal["reward", "selection"]) -> dict[str, Any] | None:
    if spec == "canvas" or Path(spec).is_dir():
        folder = canvas.clip_path(name) if spec == "canvas" else Path(spec)
        file = folder / "open_clip_config.json"
        settings = (
            read_object(file, "fetch the CLIP again").get("model_cfg") if file.is_file() else None
        )
    else:
        settings = open_clip.get_model_config(spec.partition("/")[0])
    if not isinstance(settings, dict) or "hf_model_name" in settings.get("text_cfg", {}):
        return None  # its text tower is in another place
    return dict(settings)


def judgement(
    config: Config, book: PromptBook, clip: Eye, shape: tuple[int, int, int]
) -> Judgement:
    """Returns the configured critic; raises DataError for a CLIP that it cannot stand on."""
    outcomes, chosen = len(outcome_names(book, config.reward)), config.critic
    with META:
        network = Critic(clip.network, shape, chosen.grid, chosen.layers, clip.width, outcomes)
    latents, step = torch.empty(1, *shape, device=META), torch.zeros(1, device=META)
    condition = torch.empty(1, clip.width, device=META)

    def value(state: Tensor) -> Tensor:
        outcomes: Tensor = network(state, step, condition)
        return outcomes

    weights = [*network.parameters(), *network.buffers()]
    fit = count(lambda: value(latents), weights, trained=True)
    network.requires_grad_(False)
    moved = latents.clone().requires_grad_(True)
    gradient = count(lambda: value(moved), weights, trained=True)
    return Judgement(network, fit, gradient, outcomes)
