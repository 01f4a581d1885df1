"""The policy: a pipeline whose UNet carries a LoRA adapter, sampled with log-probs and re-evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from rl_unlearn.adapter import AdapterState
from rl_unlearn.config import Config, Lora
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families import variance_preserving
from rl_unlearn.noise import trajectory_noise
from rl_unlearn.pipeline import device_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LAYERS = {"cross": r".*attn2", "self": r".*attn1", "attention": r".*attn[12]"}
_ADAPTER = "default"
_ENCODED_AT_ONCE = 256


class DiffusionPolicy:
    """Frozen pipeline plus trainable adapter (fp32 masters); its stochastic denoising step is the policy."""

    def __init__(self, pipeline: StableDiffusionPipeline, config: Config):
        self.device = device_of(config.model)
        self.dtype = DTYPES[config.model.dtype]
        self.guidance = config.sampler.guidance
        self.kernel = variance_preserving.kernel(pipeline.scheduler, config.sampler.steps, config.sampler.eta)
        self._pipeline = pipeline
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        pipeline.to(self.device)
        pipeline.unet.to(self.dtype)
        self.unet = pipeline.unet.to(memory_format=torch.channels_last)
        self._row = 1
        if self.device.type == "cpu" and self.unet.config.sample_size <= 16:
            # At a few dozen tokens plain matrix products beat the fused kernel: 1.2 times as many passes a second.
            self.unet.set_attn_processor(AttnProcessor())
            self._row = 16
        self._vae = pipeline.vae.to(memory_format=torch.channels_last)
        self._add_adapter(config.lora, config.seed)
        channels, size = self.unet.config.in_channels, self.unet.config.sample_size
        self.latent_shape = (channels, size, size)
        self._uncond = self.encode([""])

    def _add_adapter(self, lora: Lora, seed: int) -> None:
        projections = r"\.(to_q|to_k|to_v|to_out\.0)$"
        config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=_LAYERS[lora.layers] + projections)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet.add_adapter(config, adapter_name=_ADAPTER)
        # bf16 masters would swallow small optimizer steps.
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters, the only trainable ones."""
        return [p for name, p in self.unet.named_parameters() if ".lora_" in name]

    @property
    def pipeline(self) -> StableDiffusionPipeline:
        """The pipeline around the network: tokenizer, text encoder, autoencoder and scheduler, all frozen."""
        return self._pipeline

    @property
    def dimensions(self) -> int:
        """D, the number of latent dimensions."""
        return int(torch.Size(self.latent_shape).numel())

    # -- adapter ---------------------------------------------------------------------------------------------------

    def adapter_state(self) -> AdapterState:
        """A copy of the adapter, fp32 on the CPU."""
        state = get_peft_model_state_dict(self.unet, adapter_name=_ADAPTER)
        return {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in state.items()}

    def load_adapter(self, state: AdapterState, scale: float = 1.0) -> None:
        """Replaces the adapter's weights; ``scale`` multiplies its effect. DataError if names or shapes differ."""
        own = self.adapter_state()
        if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
            raise DataError(
                "the adapter does not fit this model: use the model.path, lora.rank and lora.layers it was trained with"
            )
        scaled = {k: v * scale if ".lora_B." in k else v for k, v in state.items()} if scale != 1.0 else state
        set_peft_model_state_dict(self.unet, scaled, adapter_name=_ADAPTER)

    @contextmanager
    def adapter_enabled(self, enabled: bool) -> Iterator[None]:
        """With ``False``: the untouched model, without a second copy of its weights."""
        if enabled:
            yield
            return
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    # -- the network -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Float[Tensor, "batch tokens features"]:
        """Prompt embeddings of the frozen text encoder, on the device."""
        if len(texts) > _ENCODED_AT_ONCE:  # a prompt file may hold thousands
            parts = (texts[i : i + _ENCODED_AT_ONCE] for i in range(0, len(texts), _ENCODED_AT_ONCE))
            return torch.cat([self.encode(part) for part in parts])
        tokens = self._pipeline.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self._pipeline.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return self._pipeline.text_encoder(tokens.to(self.device))[0]

    def predict(
        self,
        latents: Float[Tensor, "batch channels height width"],
        index: Int[Tensor, " batch"] | int,
        embeddings: Float[Tensor, "batch tokens features"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The UNet's output with classifier-free guidance; gradients flow through both branches."""
        batch = len(latents)
        timesteps = self.kernel.timesteps[index].to(self.device).expand(batch)
        latents = latents.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        if self.guidance != 1:
            latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
            embeddings = torch.cat([self._uncond.expand_as(embeddings), embeddings])
        embeddings, mask = self._full_rows(embeddings.to(self.dtype))
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            output = self.unet(latents, timesteps, encoder_hidden_states=embeddings, encoder_attention_mask=mask).sample
        if self.guidance == 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def _full_rows(
        self, embeddings: Float[Tensor, "batch tokens features"]
    ) -> tuple[Float[Tensor, "batch padded features"], Bool[Tensor, "batch padded"] | None]:
        """Fills the tokens up with masked ones: a softmax over rows that end within a register is ten times slower."""
        missing = -embeddings.shape[1] % self._row
        if not missing:
            return embeddings, None
        mask = torch.arange(embeddings.shape[1] + missing, device=embeddings.device) < embeddings.shape[1]
        return torch.nn.functional.pad(embeddings, (0, 0, 0, missing)), mask.expand(len(embeddings), -1)

    @torch.no_grad()
    def rollout(
        self, embeddings: Float[Tensor, "batch tokens features"], seeds: list[int]
    ) -> tuple[
        Float[Tensor, "batch levels channels height width"],
        Float[Tensor, "batch steps"],
        Float[Tensor, "batch steps channels height width"],
    ]:
        """Denoises one trajectory for each seed: all states in storage dtype; in fp32 the behaviour log-probs, and the
        means that the actions were drawn around."""
        noise = trajectory_noise(seeds, len(self.kernel), self.latent_shape).to(self.device)
        latents = [noise[:, 0].to(self.dtype)]
        log_probs, means = [], []
        for index in range(len(self.kernel)):
            output = self.predict(latents[-1], index, embeddings)
            action, log_prob, mean = self.kernel.step(output, latents[-1], index, noise=noise[:, index + 1])
            latents.append(action)
            log_probs.append(log_prob)
            means.append(mean)
        return torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), torch.stack(means, dim=1)

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images in [0, 1], fp32."""
        latents = latents.to(self.device, torch.float32) / self._vae.config.scaling_factor
        images = self._vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
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
