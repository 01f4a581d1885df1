"""LoRA on a network: added, read, replaced, switched off; its masters are fp32 whatever the network
multiplies by.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Lora
from rl_unlearn.errors import DataError

_NAME = "default"


def add(network: Any, lora: Lora, layers: Mapping[str, str], seed: int) -> None:
    """Gives the network an adapter that changes nothing yet, in its own number type, with random
    numbers of this seed.

    ``layers``: what the settings' names for layers mean in this network.
    """
    config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=layers[lora.layers])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config, adapter_name=_NAME)


def parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Returns what the network multiplies by, by the names that an adapter's file has."""
    return {
        name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in network.named_parameters()
        if ".lora_" in name and f".{_NAME}." in name
    }


class Adapter:
    """The adapter of a network, held in fp32 masters.

    In fp32 the network multiplies by the masters themselves. In half precision it multiplies by
    copies of its own type: a small step of the optimizer would be rounded away in them, and so
    would the gradient of a microbatch beside the sum of those before it. What a backward pass gives
    a copy is therefore added to its master's gradient, in fp32, and is gone from the copy.
    """

    def __init__(self, network: Any, lora: Lora, layers: Mapping[str, str], seed: int):
        self._network = network
        add(network, lora, layers, seed)
        self._copies = parameters(network)
        self.masters = {name: _master(copy) for name, copy in self._copies.items()}

    def renew(self) -> None:
        """Gives the network the masters' numbers; after each change of these."""
        for name, master in self.masters.items():
            if (copy := self._copies[name]) is not master:
                copy.data.copy_(master.data)

    def state(self) -> AdapterState:
        """Returns a copy of the masters on the CPU."""
        return {name: master.detach().to("cpu", copy=True) for name, master in self.masters.items()}

    def load(self, new: AdapterState, scale: float = 1.0) -> None:
        """Replaces the masters, and what the network multiplies by; ``scale`` multiplies their
        effect.

        Raises DataError if names or shapes differ.
        """
        if self.masters.keys() != new.keys() or any(
            master.shape != new[name].shape for name, master in self.masters.items()
        ):
            raise DataError(
                "the adapter does not fit this model: use the model.path, lora.rank and "
                "lora.layers it was trained with"
            )
        for name, master in self.masters.items():
            strength = scale if ".lora_B." in name else 1.0
            master.data.copy_(new[name] if strength == 1 else strength * new[name])
        self.renew()

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """Meanwhile the network has its adapter or, with ``False``, is the untouched one."""
        if on:
            yield
            return
        self._network.disable_adapters()
        try:
            yield
        finally:
            self._network.enable_adapters()


def _master(copy: nn.Parameter) -> nn.Parameter:
    """Returns the parameter itself if it is fp32, else a master that its gradients go to."""
    if copy.dtype == torch.float32:
        return copy
    master = nn.Parameter(copy.detach().float())

    def pass_on(_: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            master.grad = copy.grad.float()
        else:
            master.grad += copy.grad
        copy.grad = None

    copy.register_post_accumulate_grad_hook(pass_on)
    return master


def share_frozen(network: nn.Module, other: nn.Module) -> None:
    """Gives the network the frozen weights of an equal one in place of its copies of them."""
    shared = dict(other.named_parameters()) | dict(other.named_buffers())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if ".lora_" not in name:
            tensor.data = shared[name].data
