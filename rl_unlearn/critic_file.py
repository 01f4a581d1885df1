"""A critic on disk: safetensors, with the names of the outcomes that it predicts."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_unlearn.critic import Critic
from rl_unlearn.durable import settle
from rl_unlearn.errors import DataError

FILE_NAME = "critic.safetensors"


@dataclass(frozen=True)
class CriticState:
    """Parameters by name, and the outcomes they predict, in order (rewards.outcome_names)."""

    weights: dict[str, Tensor]
    outcomes: tuple[str, ...]


def save_critic(folder: Path, state: CriticState) -> None:
    """Writes ``folder/critic.safetensors`` in one step."""
    temporary = folder / (FILE_NAME + ".tmp")
    weights = {name: tensor.contiguous() for name, tensor in state.weights.items()}
    save_file(weights, temporary, metadata={"outcomes": json.dumps(state.outcomes), "format": "pt"})
    settle(temporary, folder / FILE_NAME)


def load_critic(run: str | Path, critic: Critic, outcomes: tuple[str, ...]) -> None:
    """Gives ``critic`` the weights of a run's critic. What it was trained to forget does not matter.

    Raises DataError if there is none, or if it has another shape or predicts other outcomes.
    """
    path = Path(run) / FILE_NAME
    if not path.is_file():
        raise DataError(
            f"critic.start {str(run)!r} holds no {FILE_NAME}: give the folder of a finished run with a critic"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = tuple(json.loads((file.metadata() or {}).get("outcomes", "[]")))
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"critic {str(path)!r} is not a valid safetensors file: {error}") from error
    if found != outcomes:
        raise DataError(
            f"critic {str(path)!r} predicts other outcomes: use its run's prompts.objects, prompts.styles and "
            "reward.images"
        )
    own = critic.state_dict()
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise DataError(
            f"critic {str(path)!r} has another shape: use its run's reward.clip, critic.grid, critic.layers"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
