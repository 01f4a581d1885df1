"""LoRA adapters on disk, and their checksum: safetensors in diffusers' keys, loadable by plain
diffusers.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.adapters.adapter_file import FILE_NAME, STRENGTH, locate
from rl_unlearn.adapters.kohya import KOHYA, from_kohya
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.tensor_file import read_tensors, save_tensors
from rl_unlearn.files.tensor_header import read_header

_PREFIXES = ("unet.", "transformer.")
_UNET = {"down_blocks", "mid_block", "up_blocks"}

AdapterState = dict[str, Float[Tensor, "rows columns"]]


def digest(state: AdapterState) -> str:
    """SHA-256 over names, shapes and bytes: tells whether a hand-over changed, or failed to change,
    anything.
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def component(layers: Iterable[str]) -> str:
    """Returns the part of a pipeline that layers of these names belong to: a UNet has blocks down
    and up, a transformer not.
    """
    return "unet" if {name.partition(".")[0] for name in layers} <= _UNET else "transformer"


def save_adapter(
    folder: str | Path,
    state: AdapterState,
    config: Config,
    stands_on: Mapping[str, str] | None = None,
) -> None:
    """Writes ``folder/pytorch_lora_weights.safetensors`` atomically, with what
    `adapter_file.metadata` gives back.

    ``stands_on``: `foundation.of_model`, so that the file alone can be told from one of another
    model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{component(state)}.{name}": t.to("cpu", torch.float32).contiguous()
        for name, t in state.items()
    }
    metadata = {
        "base_model": config.model.path,
        "base_config": config.model.config or "",
        "base_revision": config.model.revision or "",
        "base_variant": config.model.variant or "",
        "size": str(list(config.model.size)) if config.model.size else "",
        "adapters": ",".join(config.model.adapters),
        "concept": config.concept,
        "seed": str(config.seed),
        "steps": str(config.sampler.steps),
        "eta": str(config.sampler.eta),
        "guidance": str(config.sampler.guidance),
        "digest": digest(state),
        "stands_on": json.dumps(dict(stands_on or {}), ensure_ascii=False),
        "format": "pt",
    }
    save_tensors(tensors, folder / FILE_NAME, metadata)


def read_adapter(path: str | Path) -> AdapterState:
    """Returns the LoRA state in an adapter folder, a run folder or a .safetensors file, in
    diffusers' or kohya's keys.

    The file's own strength (alpha / rank, for each layer) is multiplied into ``lora_B``, so that
    the update of a layer is ``B @ A`` wherever the state goes. Raises DataError if the file is
    missing, damaged or another kind of adapter.
    """
    file = locate(path)
    state, about = read_tensors(file, "adapter"), read_header(file).metadata
    magnitude = [
        name for name in state if "lora_magnitude_vector" in name or name.endswith(".dora_scale")
    ]
    if magnitude:
        raise DataError(
            f"adapter {str(file)!r} is a DoRA ({magnitude[0]}), not a LoRA: merge it into its model"
        )
    if any(name.startswith(KOHYA) for name in state):
        state = from_kohya(state, str(file))
    else:
        state = _own_strength(_own_alphas(state, file), about, file)
    prefix = _prefix(state)
    if prefix is None or not all(".lora_" in name for name in state):
        raise DataError(
            f"adapter {str(file)!r} holds no LoRA of a UNet or transformer alone, in diffusers' or "
            "kohya's keys: give a run's own adapter, and none that changes the text encoder"
        )
    pairs = {name.replace(".lora_A.", ".lora_B.") for name in state if ".lora_A." in name}
    if pairs != {name for name in state if ".lora_A." not in name}:
        raise DataError(
            f"adapter {str(file)!r} lacks one factor of some layers: the file is cut, make it again"
        )
    for down in (name for name in state if ".lora_A." in name):
        a, b = state[down], state[down.replace(".lora_A.", ".lora_B.")]
        if not a.ndim == b.ndim or a.ndim not in (2, 4) or a.shape[0] != b.shape[1]:
            raise DataError(
                f"adapter {str(file)!r}: the two factors of {down} do not fit each other: make it "
                "again"
            )
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DataError(
            f"adapter {str(file)!r} holds NaN or infinity: its training failed, make it again"
        )
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if about.get("digest", digest(state)) != digest(state):
        raise DataError(
            f"adapter {str(file)!r} does not hold the weights that it was saved with: fetch it "
            "again"
        )
    return state


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """Returns the one that all names begin with."""
    return next(
        (
            prefix
            for prefix in _PREFIXES
            if state and all(name.startswith(prefix) for name in state)
        ),
        None,
    )


def _own_alphas(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Returns the state with the ``LAYER.alpha`` that some programs write beside a layer's factors
    in its ``lora_B``.
    """
    plain = {name: tensor for name, tensor in state.items() if not name.endswith(".alpha")}
    for name in state.keys() - plain.keys():
        layer, alpha = name.removesuffix(".alpha"), state[name]
        down, up = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        if down not in plain or up not in plain or alpha.numel() != 1 or plain[down].ndim < 2:
            raise DataError(
                f"adapter {str(file)!r} lacks one factor of {layer}: the file is cut, make it again"
            )
        plain[up] = plain[up] * (float(alpha) / plain[down].shape[0])
    return plain


def _own_strength(state: dict[str, Tensor], about: dict[str, str], file: Path) -> dict[str, Tensor]:
    """Returns the state with peft's alpha, which diffusers writes into the file's metadata, in its
    ``lora_B``.
    """
    if STRENGTH not in about:
        return state
    written = parse_object(about[STRENGTH], f"adapter {str(file)!r}, metadata {STRENGTH},")
    prefix = _prefix(state) or _PREFIXES[0]
    alphas, ranks = written.get(f"{prefix}alpha_pattern"), written.get(f"{prefix}rank_pattern")
    if alphas or ranks:  # regular expressions over layers: not worth being guessed
        raise DataError(
            f"adapter {str(file)!r} has a strength for each layer (alpha_pattern): save it with "
            "one alpha"
        )
    alpha, rank = written.get(f"{prefix}lora_alpha"), written.get(f"{prefix}r")
    if alpha is None:
        return state
    if (
        not all(isinstance(n, int | float) and math.isfinite(n) for n in (alpha, rank or 1))
        or not rank
    ):
        raise DataError(
            f"adapter {str(file)!r}: its metadata {STRENGTH} names no strength: {alpha!r} of rank "
            f"{rank!r}"
        )
    strength = alpha / (math.sqrt(rank) if written.get(f"{prefix}use_rslora") else rank)
    return {
        name: tensor * strength if ".lora_B." in name else tensor for name, tensor in state.items()
    }
