"""The policy: a pipeline whose network carries a LoRA adapter, sampled with log-probs and
re-evaluated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Config, Lora
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Index
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import DTYPES, device_of
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import latent_shape
from rl_unlearn.noise import trajectory_noise

_ADAPTER = "default"
_DECODED_PIXELS = 4 * 512 * 512
"""At once on a GPU, where the autoencoder needs more than a GiB for each image of 512 pixels a
side."""


class DiffusionPolicy:
    """Frozen pipeline plus trainable adapter (fp32 masters); its stochastic denoising step is the
    policy.
    """

    def __init__(self, pipeline: Any, config: Config):
        self.device = device_of(config.model)
        self.dtype = DTYPES[config.model.dtype]
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        folder = fetched_folder(config.model)
        family = family_of(folder)
        for part in (pipeline.vae, getattr(pipeline, family.trained)):
            part.to(self.device)
        self.family = family(pipeline, config.sampler, latent_shape(folder, config.model))
        self.kernel, self.latent_shape = self.family.kernel, self.family.latent_shape
        self.network = self.family.network
        if self.network.dtype != self.dtype:
            self.network.to(self.dtype)
        self._add_adapter(config.lora, config.seed)
        self._uncond = self._unconditional(config.sampler.guidance)
        self._guidance = config.sampler.guidance

    @torch.no_grad()
    def _unconditional(self, guidance: float) -> Condition | None:
        if guidance == 1:
            return None
        self._bring_text_encoders()
        found = self.family.unconditional()
        return None if found is None else found.to(self.device, self.dtype)

    def _bring_text_encoders(self) -> None:
        for encoder in self.family.text_encoders().values():
            encoder.to(self.device)

    def _add_adapter(self, lora: Lora, seed: int) -> None:
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.rank, target_modules=self.family.layers[lora.layers]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network.add_adapter(config, adapter_name=_ADAPTER)
        # bf16 masters would swallow small optimizer steps.
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters, the only trainable ones."""
        return [p for name, p in self.network.named_parameters() if ".lora_" in name]

    @property
    def dimensions(self) -> int:
        """D, the number of latent dimensions."""
        return int(torch.Size(self.latent_shape).numel())

    # -- memory
    # ----------------------------------------------------------------------------------------------

    def free_text_encoders(self) -> None:
        """Gives their memory back; :meth:`encode` must not be called any more."""
        for name in self.family.text_encoders():
            setattr(self.family.pipeline, name, None)

    def free_autoencoder(self) -> None:
        """Gives its memory back; :meth:`decode` must not be called any more."""
        self.family.pipeline.vae = None
        del self.family.autoencoder

    def share_frozen(self, other: "DiffusionPolicy") -> None:
        """Takes the frozen weights of another policy of the same model in place of equal ones of
        its own.
        """
        theirs = dict(other.network.named_parameters()) | dict(other.network.named_buffers())
        for name, own in [*self.network.named_parameters(), *self.network.named_buffers()]:
            if ".lora_" not in name:
                own.data = theirs[name].data

    # -- adapter
    # ----------------------------------------------------------------------------------------------

    def adapter_state(self) -> AdapterState:
        """A copy of the adapter, fp32 on the CPU."""
        state = get_peft_model_state_dict(self.network, adapter_name=_ADAPTER)
        return {
            name: tensor.detach().to("cpu", torch.float32, copy=True)
            for name, tensor in state.items()
        }

    def load_adapter(self, state: AdapterState, scale: float = 1.0) -> None:
        """Replaces the adapter's weights; ``scale`` multiplies its effect.

        DataError if names or shapes differ.
        """
        own = self.adapter_state()
        if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
            raise DataError(
                "the adapter does not fit this model: use the model.path, lora.rank and "
                "lora.layers it was trained with"
            )
        scaled = (
            {k: v * scale if ".lora_B." in k else v for k, v in state.items()}
            if scale != 1.0
            else state
        )
        set_peft_model_state_dict(self.network, scaled, adapter_name=_ADAPTER)

    @contextmanager
    def adapter_enabled(self, enabled: bool) -> Iterator[None]:
        """With ``False``: the untouched model, without a second copy of its weights."""
        if enabled:
            yield
            return
        self.network.disable_adapters()
        try:
            yield
        finally:
            self.network.enable_adapters()

    # -- the network
    # ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Condition:
        """What the network is told of prompts, a row for each; on the CPU, in the network's
        type."""
        self._bring_text_encoders()
        count = self.family.encoded_at_once
        parts = (texts[i : i + count] for i in range(0, len(texts), count))
        return Condition.cat(
            [self.family.encode(part).to(torch.device("cpu"), self.dtype) for part in parts]
        )

    def conditional(
        self,
        latents: Float[Tensor, "batch channels height width"],
        index: Index,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """The network's answer as it was trained, without classifier-free guidance."""
        latents, condition = (
            latents.to(self.device, self.dtype),
            condition.to(self.device, self.dtype),
        )
        with torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        ):
            return self.family.predict(latents, index, condition)

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        index: Index,
        condition: Condition,
    ) -> Float[Tensor, "batch channels height width"]:
        """The network's answer with classifier-free guidance; gradients flow through both
        branches."""
        if self._uncond is None:
            return self.conditional(latents, index, condition)
        both = Condition.cat(
            [self._uncond.expand(len(latents)), condition.to(self.device, self.dtype)]
        )
        index = torch.cat([index, index]) if isinstance(index, Tensor) else index
        unconditional, conditional = self.conditional(
            torch.cat([latents, latents]), index, both
        ).chunk(2)
        return self.family.guide(unconditional, conditional, self._guidance)

    @torch.no_grad()
    def rollout(
        self, condition: Condition, seeds: list[int]
    ) -> tuple[
        Float[Tensor, "batch levels channels height width"],
        Float[Tensor, "batch steps"],
        Float[Tensor, "batch steps channels height width"],
    ]:
        """Denoises one trajectory for each seed: all states in storage dtype; in fp32 the behaviour
        log-probs, and the means that the actions were drawn around.
        """
        noise = trajectory_noise(seeds, len(self.kernel), self.latent_shape).to(self.device)
        latents = [noise[:, 0].to(self.dtype)]
        log_probs, means = [], []
        for index in range(len(self.kernel)):
            output = self.predict(latents[-1], index, condition)
            action, log_prob, mean = self.kernel.step(
                output, latents[-1], index, noise=noise[:, index + 1]
            )
            latents.append(action)
            log_probs.append(log_prob)
            means.append(mean)
        return torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), torch.stack(means, dim=1)

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images in [0, 1], fp32."""
        at_once = decoded_at_once(self.device.type, self.family) or len(latents)
        parts = latents.to(self.device).split(max(at_once, 1))
        images = torch.cat([self.family.autoencoder.decode(part) for part in parts])
        return (images / 2 + 0.5).clamp(0, 1)

    def generate(
        self, prompts: list[str], seeds: list[int], batch: int = 64
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """One image for each prompt and seed, on the CPU."""
        if len(prompts) != len(seeds):
            raise ConfigError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        images = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            latents, *_ = self.rollout(self.encode(prompts[part]), seeds[part])
            images.append(self.decode(latents[:, -1]).cpu())
        return torch.cat(images)


def decoded_at_once(device: str, family: Family) -> int | None:
    """Images that the autoencoder is given at once, by the type of its device; None: all that there
    are.
    """
    if device != "cuda":
        return None
    _, height, width = family.latent_shape
    return max(1, _DECODED_PIXELS // (height * width * family.autoencoder.scale**2))
