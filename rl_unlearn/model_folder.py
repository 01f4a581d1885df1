"""The folder of a pipeline, looked at without its weights and without torch: what is there, and whether it fits.

Everything here is told by small JSON files and by the headers of the weights, so that a wrong model is named in a
second, before anything is loaded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_unlearn import canvas
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.json_file import read_object
from rl_unlearn.stable_diffusion_layout import LAYOUTS, known_as
from rl_unlearn.tensor_header import read_header

PIPELINE = "StableDiffusionPipeline"
COMPONENTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
"""The networks of a pipeline, and the class that each must be of."""
FOLDERS = (*COMPONENTS, "tokenizer", "scheduler")
_REMEDY = "fetch the model again"
_SAME_NOISE = {
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler",
    "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
    "TCDScheduler",
}  # fmt: skip
"""Samplers of the variance-preserving noise that DDIM reverses, so that DDIM can take their place."""
_FEW_STEPS = {"LCMScheduler", "TCDScheduler"}


def local_folder(model: Model) -> Path | None:
    """The canvas's folder or the one that ``model.path`` names, None for a hub id.

    Raises DataError for what is neither.
    """
    if model.path == "canvas":
        return canvas.pipeline_path()
    if Path(model.path).is_dir():
        return Path(model.path)
    if model.path.startswith((".", "/", "~")) or model.path.count("/") != 1:
        raise DataError(f"model.path {model.path!r} is no folder, and no hub id of the form owner/name")
    return None


def fetched_folder(model: Model) -> Path:
    """The same for a hub id, too: what a pipeline needs of it is downloaded, or taken from the hub's cache.

    Raises DataError if it cannot be had.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    from diffusers import StableDiffusionPipeline

    try:
        return Path(
            StableDiffusionPipeline.download(
                model.path,
                revision=model.revision,
                use_safetensors=True,
                trust_remote_code=False,
                safety_checker=None,
                feature_extractor=None,  # not used: they need not be safetensors
            )
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"model.path {model.path!r} cannot be fetched: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Parts:
    """Configurations of a pipeline's parts."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        size = self.unet.get("sample_size")
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        channels: Any = self.unet.get("in_channels", 4)
        height, width = height or 0, width or 0
        if not all(isinstance(n, int) and 0 < n <= 4096 for n in (channels, height, width)):
            raise DataError(f"unet/config.json names no size: sample_size is {size!r}, in_channels {channels!r}")
        if height != width:
            raise DataError(f"unet/config.json: sample_size is {size!r}: only square images are drawn")
        return channels, height, width


def check(folder: Path, sampler: Sampler | None) -> list[str]:
    """What a person should know of the model in a folder; raises DataError, or ConfigError for the sampler, if given.

    Weights are compared with the names that the networks have; :func:`rl_unlearn.pipeline.load_pipeline` compares what
    was loaded once more.
    """
    parts = read_parts(folder)
    for component in COMPONENTS:
        check_weights(folder, component, getattr(parts, component))
    _check_tokenizer(folder)
    try:
        _check_fit(parts)
        return list(_about_sampler(parts, sampler))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"a configuration in model folder {str(folder)!r} is damaged ({error}): {_REMEDY}") from error


def read_parts(folder: Path) -> Parts:
    """Classes and configurations of the parts; DataError for another kind of pipeline, or one that is not whole."""
    if not (folder / "model_index.json").is_file():
        raise DataError(f"model folder {str(folder)!r} has no model_index.json: give a pipeline in diffusers layout")
    index = read_object(folder / "model_index.json", _REMEDY)
    kind = index.get("_class_name")
    if kind != PIPELINE:
        raise DataError(f"model folder {str(folder)!r} holds a {kind}: only {PIPELINE} (1.x and 2.x) can be trained")
    for component, known in COMPONENTS.items():
        row = index.get(component)
        if not isinstance(row, list) or row[1:] != [known]:
            raise DataError(f"model folder {str(folder)!r}: its {component} is {row}, not a {known}")
    configs = {name: read_object(folder / name / "config.json", _REMEDY) for name in COMPONENTS}
    return Parts(**configs, scheduler=read_object(folder / "scheduler" / "scheduler_config.json", _REMEDY))


def weight_files(folder: Path, component: str) -> list[Path]:
    """The files that a component's weights are read from: one, or the shards of its index.

    Raises DataError if there is none, naming what lies there instead.
    """
    place = folder / component
    stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    index = place / f"{stem}.safetensors.index.json"
    if (place / f"{stem}.safetensors").is_file():
        return [place / f"{stem}.safetensors"]
    if index.is_file():
        shards = read_object(index, _REMEDY).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise DataError(f"{index} names no files beside it: {_REMEDY}")
        return [place / name for name in sorted(names)]
    others = sorted(path.name for path in place.glob("*.safetensors") if path.is_file()) if place.is_dir() else []
    pickled = sorted(path.name for path in place.glob("*.bin")) if place.is_dir() else []
    hint = f"no {stem}.safetensors" + (f", only {others[0]}: rename it, or fetch the whole model" if others else "")
    if pickled and not others:
        hint = "only pickled weights, which are refused; convert them to safetensors"
    raise DataError(f"model folder {str(folder)!r} holds {hint} in {component}/")


def check_weights(folder: Path, component: str, config: dict[str, Any]) -> None:
    """DataError, which names component and keys, unless the files hold all weights of the network and no others."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, component):
        shapes |= read_header(file, _REMEDY).shapes
    try:
        expected = LAYOUTS[component](config)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{folder / component / 'config.json'} is damaged ({error}): {_REMEDY}") from error
    if expected is not None:
        found = known_as(component, shapes)
        compare(folder, component, expected - found, found - expected)


def compare(folder: object, component: str, missing: set[str], unexpected: set[str]) -> None:
    """DataError unless both are empty."""
    if not missing and not unexpected:
        return
    lacks = f"lacks {len(missing)} weights, such as {min(missing)}" if missing else ""
    has = f"has {len(unexpected)} that have no place, such as {min(unexpected)}" if unexpected else ""
    told = " and ".join(filter(None, (lacks, has)))
    raise DataError(f"folder {str(folder)!r}: {component} {told}: its answers would be noise; fetch it again")


def _check_fit(parts: Parts) -> None:
    """DataError unless latents and words of one part are those of the next."""
    channels, _, _ = parts.latent_shape
    latent = parts.vae.get("latent_channels", 4)
    if channels != latent:
        kind = ": an inpainting or depth model, which cannot be trained" if channels > latent else ""
        raise DataError(f"the model's unet takes {channels} channels, its vae gives {latent}{kind}")
    scale = parts.vae.get("scaling_factor", 0.18215)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise DataError(f"vae/config.json: scaling_factor is {scale!r}: {_REMEDY}")
    words, read = parts.text_encoder.get("hidden_size", 512), parts.unet.get("cross_attention_dim", 1280)
    if words != read:
        raise DataError(f"the model's text_encoder gives {words} features a token, its unet reads {read}: {_REMEDY}")
    if parts.unet.get("time_cond_proj_dim") is not None:
        raise DataError(
            "the model's unet is told the guidance scale (a latent consistency model): it cannot be trained"
        )


def _check_tokenizer(folder: Path) -> None:
    place = folder / "tokenizer"
    if not (place / "tokenizer.json").is_file() and not (place / "vocab.json").is_file():
        raise DataError(f"model folder {str(folder)!r} has no tokenizer/vocab.json or tokenizer.json: {_REMEDY}")


def _about_sampler(parts: Parts, sampler: Sampler | None) -> Iterator[str]:
    config = parts.scheduler
    kind, spacing = config.get("_class_name"), config.get("timestep_spacing", "leading")
    if kind not in _SAME_NOISE or config.get("use_flow_sigmas"):
        raise DataError(f"the model's sampler is {kind}: its noise is not the one that DDIM takes away")
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in ("epsilon", "v_prediction", "sample"):
        raise DataError(f"the model's prediction_type is {predicts!r}: use epsilon, v_prediction or sample")
    if predicts == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise DataError(
            "the model predicts the noise (epsilon), but its first step has nothing else "
            "(rescale_betas_zero_snr): set that to false in scheduler_config.json"
        )
    trained = config.get("num_train_timesteps", 1000)
    if not isinstance(trained, int) or trained < 2:
        raise DataError(f"scheduler_config.json: num_train_timesteps is {trained!r}: {_REMEDY}")
    if spacing not in ("leading", "linspace", "trailing"):
        raise DataError(f"scheduler_config.json: timestep_spacing is {spacing!r}: use leading, linspace or trailing")
    if sampler is None:
        return
    if sampler.steps >= trained:
        raise ConfigError(f"sampler.steps={sampler.steps} must be below the {trained} steps that the model was made in")
    eta = f"DDIM, eta {sampler.eta:g}, {sampler.steps} steps"
    if kind in _FEW_STEPS or (kind.startswith("Euler") and spacing == "trailing"):
        yield f"the model is made for few steps of {kind}; it is drawn and trained by {eta} instead: look at its images"
    elif kind not in ("DDIMScheduler", "PNDMScheduler"):
        yield f"the model's own sampler, {kind}, is replaced by {eta}"


def check_device(model: Model) -> Iterator[str]:
    """What a person should know of the number type on this machine's processor."""
    if model.dtype == "fp32" or model.device == "cuda" or Path("/dev/nvidia0").exists():
        return
    flags = _processor_flags()
    wanted = {
        "bf16": {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"},
        "fp16": {"avx512_fp16", "amx_fp16", "fphp"},
    }
    if flags is not None and not wanted[model.dtype] & flags:
        yield f"model.dtype={model.dtype}: this processor has no units for it and takes 6 to 11 times as long; use fp32"


def _processor_flags() -> set[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), None)
