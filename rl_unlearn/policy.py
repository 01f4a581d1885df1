"""The policy: a pipeline whose network carries a LoRA adapter, sampled with log-probs and
re-evaluated.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.adapters.lora import Adapter, share_frozen
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.families import scheduled
from rl_unlearn.families.compiled import compile_blocks, forgotten, not_there
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.family import Family, Timesteps
from rl_unlearn.families.of import family_of
from rl_unlearn.families.pipeline import DTYPES, device_of, products_of, set_products
from rl_unlearn.kernel import Index
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import latent_shape, read_layout
from rl_unlearn.noise import trajectory_noise

Latents = Float[Tensor, "batch channels height width"]
Images = Float[Tensor, "batch 3 image_height image_width"]
_DECODED_PIXELS = 4 * 512 * 512
"""At once on a GPU, where the autoencoder needs more than a GiB for each image of 512 pixels a
side."""


class DiffusionPolicy:
    """A frozen pipeline with a trainable adapter (fp32 masters), whose denoising is the policy.

    The network computes in the model's number type throughout, as plain diffusers does; what has to
    be fp32 (guidance, kernel, log-probs, the autoencoder) is so by its own inputs.
    """

    def __init__(self, pipeline: Any, config: Config):
        self.device = device_of(config.model)
        self.dtype = DTYPES[config.model.dtype]
        set_products(products_of(config.model))
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        folder = fetched_folder(config.model)
        family, self._layout = family_of(folder), read_layout(folder)
        for part in (pipeline.vae, getattr(pipeline, family.trained)):
            part.to(self.device)
        self.family = family(pipeline, config.sampler, latent_shape(folder, config.model))
        self.kernel, self.latent_shape = self.family.kernel, self.family.latent_shape
        self.network = self.family.network
        if self.network.dtype != self.dtype:
            self.network.to(self.dtype)
        self._adapter = Adapter(self.network, config.lora, self.family.layers, config.seed)
        self._compiled = config.model.compile
        if self._compiled:
            compile_blocks(self.network)
        self._uncond = self._unconditional(config.sampler.guidance)
        self._guidance = config.sampler.guidance

    @torch.no_grad()
    def _unconditional(self, guidance: float) -> Condition | None:
        if guidance == 1:
            return None
        self._bring_text_encoders()
        condition = self.family.unconditional()
        return None if condition is None else condition.to(self.device, self.dtype)

    def _bring_text_encoders(self) -> None:
        for encoder in self.family.text_encoders().values():
            encoder.to(self.device)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the adapter's fp32 masters, the only trainable ones; backward passes add to
        their gradients.
        """
        return list(self._adapter.masters.values())

    def renew_adapter(self) -> None:
        """Lets the network have the masters as they are now; after each change of
        :meth:`parameters`.
        """
        self._adapter.renew()

    @property
    def dimensions(self) -> int:
        """D, the number of latent dimensions."""
        return int(torch.Size(self.latent_shape).numel())

    def free_text_encoders(self) -> None:
        """Gives their memory back; :meth:`encode` must not be called any more."""
        for name in self.family.text_encoders():
            setattr(self.family.pipeline, name, None)

    def free_autoencoder(self) -> None:
        """Gives its memory back; :meth:`decode` must not be called any more."""
        self.family.pipeline.vae = None
        del self.family.autoencoder

    def share_frozen(self, other: "DiffusionPolicy") -> None:
        """Takes the frozen weights of another policy of the same model in place of its own."""
        share_frozen(self.network, other.network)

    def adapter_state(self) -> AdapterState:
        """Returns a copy of the adapter, fp32 on the CPU."""
        return self._adapter.state()

    def load_adapter(self, state: AdapterState, scale: float = 1.0) -> None:
        """Replaces the adapter's weights; ``scale`` multiplies its effect.

        Raises DataError if names or shapes differ.
        """
        self._adapter.load(state, scale)

    def adapter_enabled(self, enabled: bool) -> AbstractContextManager[None]:
        """Switches the adapter off meanwhile, with ``False``: the untouched model, without a second
        copy of it.
        """
        return self._adapter.enabled(enabled)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Condition:
        """Returns what the network is told of prompts, a row for each; on the CPU, in its type."""
        self._bring_text_encoders()
        count = self.family.encoded_at_once
        parts = (texts[i : i + count] for i in range(0, len(texts), count))
        return Condition.cat(
            [self.family.encode(part).to(torch.device("cpu"), self.dtype) for part in parts]
        )

    def conditional(self, latents: Latents, index: Index, condition: Condition) -> Latents:
        """Returns the network's answer as it was trained, without classifier-free guidance."""
        latents = self._brought(latents)
        return self._answer(latents, self._timesteps(latents, index), self._told(condition))

    def predict(self, latents: Latents, index: Index, condition: Condition) -> Latents:
        """Returns the network's answer with classifier-free guidance; gradients flow through both
        branches.
        """
        timesteps = self._timesteps(latents, index)
        return self._guided(latents, timesteps, self._told_twice(condition))

    def _timesteps(self, latents: Latents, index: Index) -> Timesteps:
        return self.kernel.told(index, self.device).expand(len(latents))

    def _guided(self, latents: Latents, timesteps: Timesteps, told: Condition) -> Latents:
        """Returns it of a condition that was made ready once for many steps."""
        latents = self._brought(latents)
        if self._uncond is None:
            return self._answer(latents, timesteps, told)
        latents, timesteps = (torch.cat([part, part]) for part in (latents, timesteps))
        answers = self._answer(latents, timesteps, told)
        # The difference of two rounded answers is multiplied: in half precision it would be rounded
        # once more.
        unconditional, conditional = answers.float().chunk(2)
        return self.family.guide(unconditional, conditional, self._guidance)

    def _answer(self, latents: Latents, timesteps: Timesteps, told: Condition) -> Latents:
        """Returns the network's answer, by the same kernels whether or not gradients are asked for.

        What torch compiles for inference rounds otherwise than what it compiles for training, and
        the first ratios would not be 1: compiled blocks always run as in training.
        """
        if not self._compiled or torch.is_grad_enabled():
            return self.family.predict(latents, timesteps, told)
        with torch.enable_grad(), saved_tensors_hooks(forgotten, not_there):
            return self.family.predict(latents, timesteps, told).detach()

    def _brought(self, latents: Latents) -> Latents:
        return latents.to(self.device, self.dtype, non_blocking=True)

    def _told(self, condition: Condition) -> Condition:
        return condition.to(self.device, self.dtype)

    def _told_twice(self, condition: Condition) -> Condition:
        """Returns what the network is told in both branches of the guidance."""
        condition = self._told(condition)
        if self._uncond is None:
            return condition
        return Condition.cat([self._uncond.expand(len(condition)), condition])

    @torch.no_grad()
    def rollout(
        self, condition: Condition, seeds: list[int]
    ) -> tuple[
        Float[Tensor, "batch levels channels height width"],
        Float[Tensor, "batch steps"],
        Float[Tensor, "batch steps channels height width"],
    ]:
        """Denoises one trajectory for each seed.

        Returns all states in storage dtype; in fp32 the behaviour log-probs, and the means that the
        actions were drawn around.
        """
        noise = trajectory_noise(seeds, len(self.kernel), self.latent_shape).to(self.device)
        latents, told = [noise[:, 0].to(self.dtype)], self._told_twice(condition)
        log_probs, means = [], []
        for index in range(len(self.kernel)):
            timesteps = self._timesteps(latents[-1], index)
            output = self._guided(latents[-1], timesteps, told)
            action, log_prob, mean = self.kernel.step(
                output, latents[-1], index, noise=noise[:, index + 1]
            )
            latents.append(action)
            log_probs.append(log_prob)
            means.append(mean)
        return torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), torch.stack(means, dim=1)

    def decode(self, latents: Latents) -> Images:
        """Returns the images of latents, in [0, 1] and fp32; gradients flow through."""
        at_once = decoded_at_once(self.device.type, self.family) or len(latents)
        parts = latents.to(self.device).split(max(at_once, 1))
        images = torch.cat([self.family.autoencoder.decode(part) for part in parts])
        return (images / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def denoise(self, condition: Condition, seeds: list[int], schedule: Schedule) -> Latents:
        """Returns the final latents of a scheduler of diffusers, in fp32, from the noise that
        :meth:`rollout` starts from.

        Raises ConfigError for a scheduler that the model has not.
        """
        kind = self._layout.scheduler(schedule.name)
        scheduler = scheduled.make(kind, self.family, schedule.steps, self.device)
        noise = trajectory_noise(seeds, len(self.kernel), self.latent_shape)[:, 0]
        told = self._told_twice(condition)
        return scheduled.denoise(
            scheduler,
            noise.to(self.device),
            seeds,
            lambda latents, timesteps: self._guided(latents, timesteps, told),
        )

    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        batch: int = 64,
        schedule: Schedule | None = None,
    ) -> Images:
        """Returns one image for each prompt and seed, on the CPU, by a schedule or by the kernel.

        Raises ConfigError unless there are as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ConfigError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        images = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            condition = self.encode(prompts[part])
            if schedule is None:
                final = self.rollout(condition, seeds[part])[0][:, -1]
            else:
                final = self.denoise(condition, seeds[part], schedule)
            with torch.no_grad():
                images.append(self.decode(final).cpu())
        return torch.cat(images)


def decoded_at_once(device: str, family: Family) -> int | None:
    """Returns how many images the autoencoder is given at once on a type of device; None: all."""
    if device != "cuda":
        return None
    _, height, width = family.latent_shape
    return max(1, _DECODED_PIXELS // (height * width * family.autoencoder.scale**2))
