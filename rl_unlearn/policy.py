"""The policy: a diffusers pipeline whose UNet carries a LoRA adapter, sampled with log-probs and re-evaluated."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from rl_unlearn import canvas
from rl_unlearn.adapter import AdapterState, locate, read_adapter
from rl_unlearn.config import Config, Lora, Model
from rl_unlearn.ddim import Schedule, step
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.noise import trajectory_noise

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LAYERS = {"cross": r".*attn2", "self": r".*attn1", "attention": r".*attn[12]"}
_ADAPTER = "default"
_ENCODED_AT_ONCE = 256


def device_of(model: Model) -> torch.device:
    """The device to compute on; raises MachineError if a GPU is asked for and absent."""
    if model.device == "cuda" and not torch.cuda.is_available():
        raise MachineError("model.device=cuda, but this machine has no usable GPU: use model.device=cpu or auto")
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def load_pipeline(model: Model) -> StableDiffusionPipeline:
    """A Stable Diffusion 1.x/2.x pipeline from the canvas, a folder or a hub id, with a DDIM scheduler; fp32 on CPU.

    Only safetensors weights and no remote code. Raises DataError for a missing folder, pickled weights or another
    kind of pipeline, MachineError for an absent GPU.
    """
    device_of(model)
    path = _checked_path(model)
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            path,
            revision=model.revision,
            use_safetensors=True,
            trust_remote_code=False,
            safety_checker=None,
            requires_safety_checker=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"model.path {model.path!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    for adapter in model.adapters:
        _fuse(pipeline, adapter)
    # Clipping or thresholding x0 would make the stored action something else than a draw of the kernel.
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _fuse(pipeline: StableDiffusionPipeline, adapter: str) -> None:
    """Folds an adapter into the UNet's weights for good."""
    read_adapter(adapter)
    file = locate(adapter)
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"model.adapters: {adapter!r} does not fit the model: {str(error).splitlines()[0]}") from error
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()


def read_shape_and_schedule(config: Config) -> tuple[tuple[int, int, int], Schedule]:
    """Latent shape (channels, height, width) and schedule of a model, from its configuration files alone."""
    path, revision = _checked_path(config.model), config.model.revision
    try:
        unet = UNet2DConditionModel.load_config(path, subfolder="unet", revision=revision)
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler", revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(f"model.path {config.model.path!r} cannot be read: {str(error).splitlines()[0]}") from error
    shape = (unet["in_channels"], unet["sample_size"], unet["sample_size"])
    return shape, Schedule.from_scheduler(scheduler, config.sampler.steps, config.sampler.eta)


def _checked_path(model: Model) -> str:
    path = str(canvas.pipeline_path()) if model.path == "canvas" else model.path
    if Path(path).is_dir():
        _check_folder(Path(path))
    elif path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise DataError(f"model.path {model.path!r} is no folder, and no hub id of the form owner/name")
    return path


def _check_folder(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise DataError(f"model folder {str(folder)!r} has no model_index.json: give a pipeline in diffusers layout")
    if not list((folder / "unet").glob("*.safetensors")):
        pickled = list((folder / "unet").glob("*.bin"))
        hint = "only pickled weights, which are refused; convert them to safetensors" if pickled else "no weights"
        raise DataError(f"model folder {str(folder)!r} holds {hint} in unet/")


class DiffusionPolicy:
    """Frozen pipeline plus trainable adapter (fp32 masters); the reverse kernel of stochastic DDIM is the policy."""

    def __init__(self, pipeline: StableDiffusionPipeline, config: Config):
        self.device = device_of(config.model)
        self.dtype = DTYPES[config.model.dtype]
        self.guidance = config.sampler.guidance
        self.schedule = Schedule.from_scheduler(pipeline.scheduler, config.sampler.steps, config.sampler.eta)
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
        timesteps = self.schedule.timesteps[index].to(self.device).expand(batch)
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
        noise = trajectory_noise(seeds, len(self.schedule), self.latent_shape).to(self.device)
        latents = [noise[:, 0].to(self.dtype)]
        log_probs, means = [], []
        for index in range(len(self.schedule)):
            output = self.predict(latents[-1], index, embeddings)
            action, log_prob, mean = step(output, latents[-1], self.schedule, index, noise=noise[:, index + 1])
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

    def base_digest(self) -> str:
        """SHA-256 of a sample of the frozen weights: actors compare it to know that they run the same model."""
        sha = hashlib.sha256()
        for name, parameter in self.unet.named_parameters():
            if ".lora_" not in name:
                sha.update(name.encode())
                sha.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return sha.hexdigest()
