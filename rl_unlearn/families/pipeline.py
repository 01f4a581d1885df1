"""The model from disk or hub: a diffusers pipeline, checked before it is loaded, with what it
stands on folded in.
"""

import inspect
import os
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from rl_unlearn.adapters.adapter import AdapterState, read_adapter
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.families.of import family_of
from rl_unlearn.layouts.layout import Network
from rl_unlearn.models import model_folder
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import compare
from rl_unlearn.models.plain_names import plainly_named

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def device_of(model: Model) -> torch.device:
    """Returns the device to compute on; raises MachineError if a GPU is asked for and absent."""
    if model.device == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "model.device=cuda, but this machine has no usable GPU: use model.device=cpu or auto"
        )
    return torch.device("cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu")


def products_of(model: Model) -> Literal["ieee", "tf32"]:
    """Returns how fp32 numbers are to be multiplied beside the network of a model.

    An fp32 network has no floor of rounding to be told by; beside one in half precision the
    autoencoder, the CLIPs and the critic round less than it does in TF32, too.
    """
    return "ieee" if model.dtype == "fp32" else "tf32"


def set_products(precision: Literal["ieee", "tf32"]) -> None:
    """Says how GPUs multiply fp32 numbers from here on: whole, or by ten bits of each, which takes
    a fraction of the time.
    """
    cudnn: Any = torch.backends.cudnn
    for backend in (cudnn.conv, torch.backends.cuda.matmul):
        backend.fp32_precision = precision


def load_pipeline(model: Model, sampler: Sampler | None = None) -> Any:
    """Returns a diffusers pipeline of a known family from the canvas, a folder or a hub id, on the
    CPU.

    The network that is trained and the text encoders are of the model's storage type, the
    autoencoder is fp32.

    Only safetensors weights and no remote code. Raises DataError for a missing folder, pickled
    weights, weights that do not fill the networks, or another kind of pipeline, MachineError for an
    absent GPU.
    """
    device_of(model)
    folder = fetched_folder(model)
    model_folder.check(folder, sampler, model.size, model.variant)
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    layout, present = model_folder.read_layout(folder), model_folder.components(folder)
    family = family_of(folder)
    try:
        networks = {name: network for name, network in layout.networks.items() if name in present}
        types = {name: _storage(model, name, layout.trained) for name in networks}
        parts = {
            name: _load(folder, name, network, model.variant, types[name])
            for name, network in networks.items()
        }
        kind: Any = family.kind or _kind(layout.pipeline)
        takes = inspect.signature(kind).parameters
        left_out = {name: None for name in _UNUSED if name in takes} | dict.fromkeys(
            layout.optional - {*present}
        )
        pipeline = kind.from_pretrained(
            folder,
            **parts,
            **left_out,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except _UNFIT as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"model.path {model.path!r} cannot be loaded: {reason}") from error
    # Old files have it changed by the pipeline; the critic, which reads the same files, would not
    # know.
    positions = getattr(pipeline.text_encoder.config, "max_position_embeddings", None)
    if positions is not None:
        pipeline.tokenizer.model_max_length = min(pipeline.tokenizer.model_max_length, positions)
    for adapter in model.adapters:
        _fuse(pipeline, layout.trained, adapter)
    pipeline.scheduler = family.process.read_scheduler(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _storage(model: Model, component: str, trained: str) -> torch.dtype:
    """Returns the number type that a component is loaded in.

    Adapters are folded in before anything is rounded.
    """
    if component == "vae" or (component == trained and model.adapters):
        return torch.float32
    return DTYPES[model.dtype]


def _kind(name: str) -> Any:
    """Returns a class of diffusers or transformers."""
    return getattr(diffusers, name, None) or getattr(transformers, name)


# What the libraries raise over configurations and weights that do not fit.
_UNFIT = (
    OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError,
    ArithmeticError,
    SafetensorError, StrictDataclassError, AssertionError,
)  # fmt: skip
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def _load(
    folder: Path, component: str, network: Network, variant: str | None, dtype: torch.dtype
) -> torch.nn.Module:
    """Returns one network, every weight of which came from its files; raises DataError that names
    the others.
    """
    kind = _kind(network.kind)
    with plainly_named(folder, component, variant) as place:
        loaded, report = kind.from_pretrained(
            place,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # transformers prints what has another shape; told so it lists it, as diffusers does in
            # its error.
            **(
                {"dtype": dtype, "ignore_mismatched_sizes": True}
                if hasattr(transformers, network.kind)
                else {"torch_dtype": dtype}
            ),
        )
    for name, *shapes in report["mismatched_keys"]:
        raise DataError(
            f"folder {str(folder)!r}: {component} has {name} in another shape ({shapes}): fetch it "
            "again"
        )
    compare(folder, component, {*report["missing_keys"]}, {*report["unexpected_keys"]})
    component_network: torch.nn.Module = loaded
    return component_network


def attach(pipeline: Any, state: AdapterState, name: str, trained: str) -> None:
    """Loads an adapter into the component as plain diffusers does; raises DataError, which names
    it, if it does not fit.

    diffusers leaves out what has no place in the model without a word.
    """
    layers = dict(getattr(pipeline, trained).named_modules())
    for down in (key for key in state if ".lora_A." in key):
        weight = getattr(layers.get(down.partition(".lora_A.")[0]), "weight", None)
        a, b = state[down], state[down.replace(".lora_A.", ".lora_B.")]
        if weight is None or (a.shape[1:], b.shape[0]) != (weight.shape[1:], weight.shape[0]):
            raise DataError(
                f"adapter {name!r} does not fit the model: it has no layer {down} of this shape"
            )
    try:
        pipeline.load_lora_weights({f"{trained}.{key}": tensor for key, tensor in state.items()})
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"adapter {name!r} does not fit the model: {str(error).splitlines()[0]}"
        ) from error


def _fuse(pipeline: Any, trained: str, adapter: str) -> None:
    """Folds an adapter into the network's weights for good."""
    attach(pipeline, read_adapter(adapter), adapter, trained)
    pipeline.fuse_lora(components=[trained])
    pipeline.unload_lora_weights()
