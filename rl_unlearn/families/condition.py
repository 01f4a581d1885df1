"""What a network is told of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Named tensors with a row for each prompt: its words, and what a family has besides them."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Int[Tensor, " rows"] | slice) -> "Condition":
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})

    def __getattr__(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self.__dict__["tensors"][name]
            return tensor
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Condition":
        """Returns the same on a device, as numbers of a type."""
        # The host goes on while a device is filled; it must not before its own memory is.
        ahead = device.type != "cpu"
        return Condition(
            {name: t.to(device, dtype, non_blocking=ahead) for name, t in self.tensors.items()}
        )

    def expand(self, count: int) -> "Condition":
        """Returns a single row as ``count`` equal ones."""
        return Condition(
            {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors.items()}
        )

    def repeated(self, times: int) -> "Condition":
        """Repeats each row ``times`` over, one after the other."""
        return Condition(
            {name: tensor.repeat_interleave(times, dim=0) for name, tensor in self.tensors.items()}
        )

    @staticmethod
    def cat(parts: "Sequence[Condition]") -> "Condition":
        """Returns several as one, in the order given."""
        return Condition(
            {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        )
