"""What the loop and the actors say to each other, beside trajectories: requests, weights, and
snapshots.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rl_unlearn.adapters.adapter import AdapterState, digest
from rl_unlearn.errors import TrainingError


@dataclass(frozen=True)
class Request:
    """What to draw.

    Produced by the loop, consumed by a rollout actor; equal requests and weights give equal bits.
    """

    round: int
    prompts: tuple[int, ...]
    """Indices into the prompt book."""
    offset: int
    """Position of the first image in its round: names the noise, so that chunks of a round
    differ."""


@dataclass(frozen=True)
class Weights:
    """Adapter of one policy version with its checksum.

    Produced by the learner, consumed by rollout actors.
    """

    version: int
    """Number of updates that made it; 0 is what the run starts from."""
    state: AdapterState
    digest: str

    def verify(self, loaded: AdapterState) -> None:
        """Raises TrainingError unless ``loaded`` is bit for bit what was sent: a silent no-op
        hand-over ends here.
        """
        if digest(loaded) != self.digest:
            raise TrainingError(
                f"policy version {self.version} was handed over, but other weights arrived"
            )


@dataclass(frozen=True)
class Snapshot:
    """Produced by an actor, kept by a checkpoint, given back to a fresh actor of the same
    configuration.
    """

    tensors: dict[str, Tensor]
    """On the CPU; copies, so that they do not change while they wait to be written."""
    values: dict[str, Any] = field(default_factory=dict)
    """Whatever JSON holds exactly: numbers, strings, lists, objects with string keys."""

    def part(self, name: str) -> dict[str, Tensor]:
        """Returns the tensors under ``name.``, without it."""
        return {
            key.removeprefix(f"{name}."): t
            for key, t in self.tensors.items()
            if key.startswith(f"{name}.")
        }


def under(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors as copies on the CPU, each name with ``name.`` before it."""
    return {
        f"{name}.{key}": tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the state of every parameter by place and name, such as ``0.exp_avg``; step sizes are
    not among it.
    """
    state = optimizer.state_dict()["state"]
    return {f"{place}.{name}": value for place, row in state.items() for name, value in row.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`optimizer_tensors` for an optimizer of the same parameters; it goes on with
    copies.
    """
    rows: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split(".", 1)
        rows.setdefault(int(place), {})[name] = tensor.clone()
    optimizer.load_state_dict(
        {"state": rows, "param_groups": optimizer.state_dict()["param_groups"]}
    )
