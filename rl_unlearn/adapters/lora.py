"""LoRA on a network: added, read, replaced, switched off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Lora
from rl_unlearn.errors import DataError

_NAME = "default"


def add(network: Any, lora: Lora, layers: Mapping[str, str], seed: int) -> None:
    """Gives the network an adapter that changes nothing yet, with random numbers of this seed.

    ``layers``: what the settings' names for layers mean in this network.
    """
    config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=layers[lora.layers])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config, adapter_name=_NAME)
    # bf16 masters would swallow small optimizer steps.
    for parameter in parameters(network):
        parameter.data = parameter.data.float()


def parameters(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Returns the adapter's parameters."""
    return [p for name, p in network.named_parameters() if ".lora_" in name]


def state(network: Any) -> AdapterState:
    """Returns a copy of the adapter, fp32 on the CPU."""
    tensors = get_peft_model_state_dict(network, adapter_name=_NAME)
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in tensors.items()
    }


def load(network: Any, new: AdapterState, scale: float = 1.0) -> None:
    """Replaces the adapter's weights; ``scale`` multiplies its effect.

    Raises DataError if names or shapes differ.
    """
    old = state(network)
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        raise DataError(
            "the adapter does not fit this model: use the model.path, lora.rank and lora.layers "
            "it was trained with"
        )
    if scale != 1.0:
        new = {name: t * scale if ".lora_B." in name else t for name, t in new.items()}
    set_peft_model_state_dict(network, new, adapter_name=_NAME)


@contextmanager
def enabled(network: Any, on: bool) -> Iterator[None]:
    """Meanwhile the network has its adapter or, with ``False``, is the untouched one."""
    if on:
        yield
        return
    network.disable_adapters()
    try:
        yield
    finally:
        network.enable_adapters()


def share_frozen(network: torch.nn.Module, other: torch.nn.Module) -> None:
    """Gives the network the frozen weights of an equal one in place of its copies of them."""
    shared = dict(other.named_parameters()) | dict(other.named_buffers())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if ".lora_" not in name:
            tensor.data = shared[name].data
