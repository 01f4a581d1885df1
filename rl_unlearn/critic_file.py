"""A critic on disk: safetensors, with what its numbers mean."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rl_unlearn.critic import Critic
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.tensor_file import read_tensors, save_tensors
from rl_unlearn.files.tensor_header import read_header

FILE_NAME = "critic.safetensors"
_DIFFERS = {
    "outcomes": "predicts other outcomes: use its run's prompts.objects, prompts.styles and "
    "reward.images",
    "timed": (
        "was told the timestep where this one is not, or the other way round: use its run's "
        "estimator.name"
    ),
    "bound": "learned outcomes of another bound: use its run's reward.bound",
    "model": "learned from the latents of another model: use its run's model.path",
    "clip": "learned from another reward CLIP: use its run's reward.clip",
}


@dataclass(frozen=True)
class Meaning:
    """What a critic reads and predicts: with another one its numbers would be taken for something
    else.
    """

    outcomes: tuple[str, ...]
    """What it predicts, in order (rewards.outcome_names)."""
    timed: bool
    """Whether it is told the timestep."""
    bound: float
    """reward.bound, nats."""
    clip: str
    """Digest of the reward CLIP, whose evidence the outcomes are."""
    model: str
    """Digest of the model, adapters left out, whose latents it reads."""


@dataclass(frozen=True)
class CriticState:
    """Parameters by name, and what they mean."""

    weights: dict[str, Tensor]
    meaning: Meaning


def save_critic(folder: Path, state: CriticState) -> None:
    """Writes ``folder/critic.safetensors`` in one step."""
    weights = {name: tensor.contiguous() for name, tensor in state.weights.items()}
    save_tensors(
        weights, folder / FILE_NAME, {"meaning": json.dumps(asdict(state.meaning)), "format": "pt"}
    )


def load_critic(run: str | Path, critic: Critic, meaning: Meaning) -> None:
    """Gives ``critic`` the weights of a run's critic.

    What it was trained to forget does not matter.

    Raises DataError if there is none, or if it has another shape or means something else.
    """
    path = Path(run) / FILE_NAME
    if not path.is_file():
        raise DataError(
            f"critic.start {str(run)!r} holds no {FILE_NAME}: give the folder of a finished run "
            "with a critic"
        )
    written = parse_object(read_header(path).metadata.get("meaning", "{}"), path)
    weights = read_tensors(path, "critic")
    for name, expected in json.loads(json.dumps(asdict(meaning))).items():
        if written.get(name) != expected:
            raise DataError(f"critic {str(path)!r} {_DIFFERS[name]}, or make a new one")
    needed = critic.state_dict()
    if needed.keys() != weights.keys() or any(
        needed[name].shape != weights[name].shape for name in needed
    ):
        raise DataError(
            f"critic {str(path)!r} has another shape: use its run's reward.clip, critic.grid, "
            "critic.layers"
        )
    if not all(
        tensor.is_floating_point() and tensor.isfinite().all() for tensor in weights.values()
    ):
        raise DataError(
            f"critic {str(path)!r} holds what is no finite number: its training failed, or it is "
            "damaged"
        )
    with torch.no_grad():
        for name, tensor in needed.items():
            tensor.copy_(weights[name])
