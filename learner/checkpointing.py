"""Gradient checkpointing: activations are computed again in the backward pass where they would not
fit in memory.
"""

import torch

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
    """Whether to checkpoint: as ``learner.checkpointing`` says, or, for ``auto``, as a GPU's free
    memory does.
    """
    if setting != "auto":
        return setting == "on"
    if policy.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(policy.device)
    held = torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    return not fits(kept_for_backward(policy, condition), microbatch, free + held)


def fits(image: int, microbatch: int, free: int) -> bool:
    """Whether the activations of a microbatch have room; ``image``: bytes for one image."""
    return image * microbatch <= _USABLE * free


def kept_for_backward(policy: DiffusionPolicy, condition: Condition) -> int:
    """Bytes that a forward pass of one image keeps for its backward pass, weights not counted."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in policy.network.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    latents = torch.zeros(1, *policy.latent_shape, device=policy.device, dtype=policy.dtype)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = policy.predict(latents, 0, condition)  # holds the graph while it is counted
    del output
    return sum(kept.values())
