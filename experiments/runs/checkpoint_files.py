"""One checkpoint as a folder of files: a part each, and a manifest of their sizes and SHA-256.

round-000012/    learner, critic, replay, loop (.safetensors) and MANIFEST.json
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from experiments.files import to_json, write_bytes
from experiments.runs.manifest import MANIFEST, PARTS, sha256
from learner.roles import Resumption
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.messages import Snapshot
from rl_unlearn.trajectory import Trajectory

FORMAT = 5


class FormatError(DataError):
    """An error for a checkpoint of another version: not damaged, but not to be read here."""


def write(
    folder: Path, round: int, parts: dict[str, Snapshot], identity: str | None, warm_up: str
) -> None:
    """Writes all parts into a folder that is there, and the manifest last."""
    files = {}
    for name in PARTS:
        content = packed(parts[name])
        write_bytes(folder / f"{name}.safetensors", content)
        files[f"{name}.safetensors"] = {"bytes": len(content), "sha256": sha256(content)}
    manifest = {
        "format": FORMAT, "round": round, "updates": parts["loop"].values.get("updates"),
        "configuration": identity, "files": files, "warm_up": warm_up,
    }  # fmt: skip
    write_bytes(folder / MANIFEST, to_json(manifest, indent=2).encode())


def packed(snapshot: Snapshot) -> bytes:
    """Returns the content of a file with a snapshot."""
    tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
    content: bytes = save(tensors, metadata={"values": to_json(snapshot.values)})
    return content


def check_format(manifest: dict[str, Any], folder: Path) -> None:
    """Raises FormatError for a checkpoint that another version of this program made."""
    format = manifest.get("format")
    if type(format) is int and format != FORMAT:
        version = "an earlier" if format < FORMAT else "a later"
        raise FormatError(
            f"checkpoint {folder} is of format {format}, made by {version} version, and this one "
            f"reads {FORMAT}: go on with that version, or start the run anew with --overwrite"
        )


def read(folder: Path, round: int, manifest: dict[str, Any]) -> tuple[str, Resumption]:
    """Returns the name of the warm-up's file, and all that is needed to go on."""
    if manifest["format"] != FORMAT or manifest["round"] != round:
        raise ValueError(
            f"its manifest is of format {manifest['format']}, round {manifest['round']}"
        )
    parts = {}
    for name in PARTS:
        file = f"{name}.safetensors"
        listed = manifest["files"][file]
        parts[name] = _unpacked(folder / file, listed["sha256"], listed["bytes"])
    warm_up = Path(manifest["warm_up"]).name
    warm = _unpacked(
        folder.parent / warm_up, warm_up.removeprefix("warm-up-").removesuffix(".safetensors")
    )
    return warm_up, Resumption(Trajectory.checked(warm.tensors), parts)


def _unpacked(path: Path, expected: str, size: int | None = None) -> Snapshot:
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise ValueError(f"{path.name} has {actual} bytes, not {size}")
    content = path.read_bytes()
    if sha256(content) != expected:
        raise ValueError(f"{path.name} is not what was written")
    # The header of what was just checked, not of the file as it may be by now.
    header = parse_object(content[8 : 8 + int.from_bytes(content[:8], "little")], path)
    return Snapshot(load(content), parse_object(header["__metadata__"]["values"], path))
