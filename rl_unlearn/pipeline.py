"""The model from disk or hub: a diffusers pipeline, checked before it is loaded, with what it stands on folded in."""

import os
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError

from rl_unlearn import canvas
from rl_unlearn.adapter import AdapterState, read_adapter
from rl_unlearn.config import Config, Model
from rl_unlearn.ddim import Schedule
from rl_unlearn.errors import DataError, MachineError


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
