"""A model without weights: its networks on the meta device, made from configuration files alone."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import torch.utils.checkpoint
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from experiments.plan.counting import Device
from rl_unlearn.adapters import lora
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import DTYPES
from rl_unlearn.layouts.layout import Network
from rl_unlearn.models.location import described_folder
from rl_unlearn.models.model_folder import read_layout, read_parts
from rl_unlearn.policy import decoded_at_once

META = torch.device("meta")
_DAMAGED = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError,
    StrictDataclassError,
)  # fmt: skip
"""What the libraries raise over configurations."""


@dataclass(frozen=True)
class Hollow:
    """A family whose network carries an adapter, in storage type, and whose tensors hold no
    numbers.
    """

    family: Family
    text_encoders: dict[str, nn.Module]
    told: dict[str, tuple[int, ...]]
    """Shape of what the network is told of a prompt, without the batch."""
    branches: int
    """Passes of the network in a guided forward of one image."""
    dtype: torch.dtype
    decoded_at_once: int
    """Images, at most."""

    @property
    def network(self) -> nn.Module:
        """The one that is trained."""
        network: nn.Module = self.family.network
        return network

    @property
    def adapter(self) -> list[nn.Parameter]:
        """The trained parameters, as the network multiplies by them."""
        return list(lora.parameters(self.network).values())

    def latents(self) -> Tensor:
        """Returns the latents of one image."""
        return torch.empty(1, *self.family.latent_shape, device=META, dtype=self.dtype)

    def forward(self, latents: Tensor | None = None) -> Tensor:
        """Passes one image through the network."""
        condition = {
            name: torch.empty(1, *shape, device=META, dtype=self.dtype)
            for name, shape in self.told.items()
        }
        given = self.latents() if latents is None else latents
        timesteps = self.family.kernel.timesteps[:1].to(META)
        return self.family.predict(given, timesteps, Condition(condition))

    def decode(self, latents: Tensor | None = None) -> Tensor:
        """Decodes one image."""
        return self.family.autoencoder.decode(self.latents() if latents is None else latents)


def build(config: Config, device: str) -> Hollow:
    """Returns the configured model as it computes on a `device`, `cpu` or `cuda`.

    Raises DataError for a folder that is damaged or of an unknown kind.
    """
    folder = described_folder(config.model)
    layout, parts = read_layout(folder), read_parts(folder)
    try:
        layout.check(parts)
        shape = layout.latent(parts, config.model.size)
        dtype = DTYPES[config.model.dtype]
        present = {name: network for name, network in layout.networks.items() if name in parts}
        made = {name: _empty(network, parts[name], dtype) for name, network in present.items()}
        kind = family_of(folder)
        pipeline = SimpleNamespace(
            scheduler=kind.process.read_scheduler(folder), device=torch.device(device), **made
        )
        family = kind(pipeline, config.sampler, shape)
        made[layout.trained].to(dtype)
        _adapt(family, config, dtype)
        if config.learner.checkpointing == "on":
            checkpoint(family.network, Device())
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"no network can be made of model folder {str(folder)!r}: {reason}"
        ) from error
    return Hollow(
        family,
        {name: network for name, network in made.items() if name.startswith("text_encoder")},
        layout.told(parts),
        1 if config.sampler.guidance == 1 or layout.told_guidance else 2,
        dtype,
        decoded_at_once(device, family) or config.rollout.batch,
    )


def _empty(network: Network, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    with META:
        if hasattr(diffusers, network.kind):
            made = getattr(diffusers, network.kind).from_config(dict(config))
        else:
            kind = getattr(transformers, network.kind)
            with _default(dtype):
                made = kind(kind.config_class.from_dict(dict(config)))
    hollow: nn.Module = made.to(META).requires_grad_(False).eval()  # some tables come from NumPy
    return hollow


def checkpoint(network: Any, device: Device) -> None:
    """Checkpoints activations as the learner does.

    What is computed again is, too, computed as the device does, which backward leaves.
    """
    again = functools.partial(
        torch.utils.checkpoint.checkpoint,
        use_reentrant=False,
        preserve_rng_state=False,  # the meta device has none
        context_fn=lambda: (nullcontext(), device),
    )
    network.enable_gradient_checkpointing(again)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Tensors are made in this type unless they name another one, as transformers makes them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _adapt(family: Family, config: Config, dtype: torch.dtype) -> None:
    """Adds the adapter as the network multiplies by it, in its own type; masters are none here."""
    with META:
        lora.add(family.network, config.lora, family.layers, config.seed)
    for parameter in lora.parameters(family.network).values():
        parameter.data = parameter.data.to(dtype)
