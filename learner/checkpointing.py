"""Gradient checkpointing: activations are computed again in the backward pass where they would not
fit in memory.
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

import torch
from torch import Tensor

from rl_unlearn.config import Learner
from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy

_USABLE = 0.8
"""Share of the free memory that activations may take; the rest is for gradients, and for what is
fragmented."""


def set_up(learner: Learner, policy: DiffusionPolicy, condition: Condition) -> None:
    """Makes the network checkpoint its activations where it is to; ``condition``: a row for a
    trial.
    """
    if chosen(learner.checkpointing, policy, condition, learner.microbatch):
        policy.network.enable_gradient_checkpointing()


def chosen(setting: str, policy: DiffusionPolicy, condition: Condition, microbatch: int) -> bool:
    """Tells whether to checkpoint: as ``learner.checkpointing`` says, or, for ``auto``, as a GPU's
    free memory does.
    """
    if setting != "auto":
        return setting == "on"
    if policy.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(policy.device)
    held = torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    return not fits(kept_for_backward(policy, condition), microbatch, free + held)


def fits(image: int, microbatch: int, free: int) -> bool:
    """Tells whether the activations of a microbatch have room; ``image``: bytes for one image."""
    return image * microbatch <= _USABLE * free


def kept_for_backward(policy: DiffusionPolicy, condition: Condition) -> int:
    """Returns the bytes that a forward pass of one image keeps for its backward pass, weights not
    counted.
    """
    latents = torch.zeros(1, *policy.latent_shape, device=policy.device, dtype=policy.dtype)
    with kept({storage(weight) for weight in policy.network.parameters()}) as sizes:
        output = policy.predict(latents, 0, condition)  # holds the graph while it is counted
    del output
    return sum(sizes.values())


@contextmanager
def kept(
    weights: Set[int], seen: Callable[[Tensor], None] | None = None
) -> Iterator[dict[int, int]]:
    """Meanwhile counts what autograd keeps: bytes by :func:`storage`, but for ``weights``.

    ``seen`` is shown every tensor that counts.
    """
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if storage(tensor) not in weights:
            sizes[storage(tensor)] = tensor.untyped_storage().nbytes()
            if seen is not None:
                seen(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def storage(tensor: Tensor) -> int:
    """Returns a name for the memory that a tensor is a view of, on the meta device, too."""
    address: int = tensor.untyped_storage()._cdata
    return address
