"""What programs that keep many LoRA files read of one: kohya's `ss_` keys and Stability's model
specification.

Sources: the keys that kohya's trainer writes, https://github.com/kohya-ss/sd-scripts, and
https://github.com/Stability-AI/ModelSpec.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from torch import Tensor

from rl_unlearn.adapters.adapter_file import STRENGTH
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.tensor_file import pack
from rl_unlearn.models.foundation import ADAPTER
from rl_unlearn.models.location import fetched_folder, local_folder
from rl_unlearn.models.model_folder import read_layout, read_parts


def described_for_managers(state: Mapping[str, Tensor], config: Config) -> dict[str, str]:
    """Returns the keys for an exported file; no path and nobody's name is in them."""
    folder = fetched_folder(config.model)
    architecture, base = read_layout(folder).architecture(read_parts(folder))
    rank = next(
        tensor.shape[0] for name, tensor in state.items() if "lora_down" in name or "lora_A" in name
    )
    return {
        "ss_base_model_version": base,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_output_name": config.run_name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": config.run_name,
        "modelspec.description": f"Forgets {config.concept}; trained by critic-guided "
        "reinforcement learning.",
        "modelspec.date": datetime.now(UTC).date().isoformat(),
        "modelspec.hash_sha256": tensors_digest(state),
        "format": "pt",
    }


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of all tensors' bytes in the file's order, as the specification spells
    it.
    """
    content = pack(state, {})
    return f"0x{hashlib.sha256(content[8 + int.from_bytes(content[:8], 'little') :]).hexdigest()}"


def for_others(about: Mapping[str, str]) -> dict[str, str]:
    """Returns what an adapter says of itself without the places where things lay on this machine.

    The strength is in the tensors now: said once more it would count twice.
    """
    kept = {
        name: value for name, value in about.items() if name not in (STRENGTH, "adapters", "format")
    }
    if not _is_public(kept.get("base_model", "")):
        for name in ("base_model", "base_config"):
            kept.pop(name, None)
    if "stands_on" in kept:
        record = parse_object(kept["stands_on"], "what the adapter says that it stands on")
        kept["stands_on"] = json.dumps(_numbered(record), ensure_ascii=False)
    return kept


def _numbered(record: Mapping[str, str]) -> dict[str, str]:
    """Returns a foundation whose adapters have numbers for paths: their order is what counts."""
    numbered: dict[str, str] = {}
    for name, value in record.items():
        numbered[f"{ADAPTER} {len(numbered)}" if name.startswith(f"{ADAPTER} ") else name] = value
    return numbered


def _is_public(path: str) -> bool:
    """Returns whether others can ask for the model by this name."""
    try:
        return path == "canvas" or (bool(path) and local_folder(Model(path=path)) is None)
    except DataError:
        return False
