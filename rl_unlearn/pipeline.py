"""The model from disk or hub: a diffusers pipeline, checked before it is loaded, with what it stands on folded in."""

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel

from rl_unlearn import model_folder
from rl_unlearn.adapter import AdapterState, read_adapter
from rl_unlearn.config import Config, Model, Sampler
from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.families import variance_preserving
from rl_unlearn.kernel import Kernel
from rl_unlearn.model_folder import compare, fetched_folder, read_parts


def device_of(model: Model) -> torch.device:
    """The device to compute on; raises MachineError if a GPU is asked for and absent."""
    if model.device == "cuda" and not torch.cuda.is_available():
        raise MachineError("model.device=cuda, but this machine has no usable GPU: use model.device=cpu or auto")
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def load_pipeline(model: Model, sampler: Sampler | None = None) -> StableDiffusionPipeline:
    """A Stable Diffusion 1.x/2.x pipeline from the canvas, a folder or a hub id, with a DDIM scheduler; fp32 on CPU.

    Only safetensors weights and no remote code. Raises DataError for a missing folder, pickled weights, weights that do
    not fill the networks, or another kind of pipeline, MachineError for an absent GPU.
    """
    device_of(model)
    folder = fetched_folder(model)
    model_folder.check(folder, sampler)
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    try:
        parts = {name: _load(folder, name, network) for name, network in _NETWORKS.items()}
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            **parts,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except _UNFIT as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"model.path {model.path!r} cannot be loaded: {told}") from error
    # Old files have it changed by the pipeline; the critic, which reads the same files, would not know.
    positions = pipeline.text_encoder.config.max_position_embeddings
    pipeline.tokenizer.model_max_length = min(pipeline.tokenizer.model_max_length, positions)
    pipeline.unet.register_to_config(sample_size=read_parts(folder).latent_shape[1])
    for adapter in model.adapters:
        _fuse(pipeline, adapter)
    pipeline.scheduler = read_scheduler(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# What the libraries raise over configurations and weights that do not fit.
_UNFIT = (
    OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError, ArithmeticError,
    SafetensorError,
)  # fmt: skip
_NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def _load(folder: Path, component: str, network: Any) -> torch.nn.Module:
    """One network, every weight of which came from its files; DataError that names the others."""
    found, told = network.from_pretrained(
        folder / component,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        # transformers prints what has another shape; told so it lists it, as diffusers does in its error.
        **(
            {"dtype": torch.float32, "ignore_mismatched_sizes": True}
            if component == "text_encoder"
            else {"torch_dtype": torch.float32}
        ),
    )
    for name, *shapes in told["mismatched_keys"]:
        raise DataError(f"folder {str(folder)!r}: {component} has {name} in another shape ({shapes}): fetch it again")
    compare(folder, component, {*told["missing_keys"]}, {*told["unexpected_keys"]})
    return found


def read_scheduler(folder: Path) -> DDIMScheduler:
    """The one DDIM scheduler that policy and critic have of a pipeline folder, whatever sampler lies there."""
    try:
        config, _ = DDIMScheduler.load_config(folder / "scheduler", return_unused_kwargs=True)
        # Clipping or thresholding x0 would make the stored action something else than a draw of the kernel. The offset
        # is 1 because the pipeline of plain diffusers sets it so, whatever the file says.
        return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, steps_offset=1)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder / 'scheduler'} cannot be read: {str(error).splitlines()[0]}") from error


def attach(pipeline: StableDiffusionPipeline, state: AdapterState, name: str) -> None:
    """Loads an adapter into the UNet as plain diffusers does; DataError, which names it, if it does not fit.

    diffusers leaves out what has no place in the model without a word.
    """
    layers = dict(pipeline.unet.named_modules())
    for down in (key for key in state if ".lora_A." in key):
        weight = getattr(layers.get(down.partition(".lora_A.")[0]), "weight", None)
        a, b = state[down], state[down.replace(".lora_A.", ".lora_B.")]
        if weight is None or (a.shape[1:], b.shape[0]) != (weight.shape[1:], weight.shape[0]):
            raise DataError(f"adapter {name!r} does not fit the model: it has no layer {down} of this shape")
    try:
        pipeline.load_lora_weights({f"unet.{key}": tensor for key, tensor in state.items()})
    except (RuntimeError, ValueError) as error:
        raise DataError(f"adapter {name!r} does not fit the model: {str(error).splitlines()[0]}") from error


def _fuse(pipeline: StableDiffusionPipeline, adapter: str) -> None:
    """Folds an adapter into the UNet's weights for good."""
    attach(pipeline, read_adapter(adapter), adapter)
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()


def read_shape_and_kernel(config: Config) -> tuple[tuple[int, int, int], Kernel]:
    """Latent shape (channels, height, width) and kernel of a model, from its configuration files alone."""
    folder = fetched_folder(config.model)
    kernel = variance_preserving.kernel(read_scheduler(folder), config.sampler.steps, config.sampler.eta)
    return read_parts(folder).latent_shape, kernel
