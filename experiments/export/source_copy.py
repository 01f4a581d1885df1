"""A model's folder as it lies, copied for somebody else: without one network's weights, and without
paths of ours.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.export.card import NAME
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.layouts.layout import REMEDY

KEPT_CARD = "BASE_README.md"
"""The model's own card: its name is taken by the card of what is made of it."""
_WEIGHTS = {
    ".safetensors",
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".h5",
}
_INDEX = "model_index.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(/(main|[\w-]+))?")
_DEEPEST = 5


def copy_source(source: Path, target: Path, without: str) -> list[str]:
    """Copies all but the weights of the component ``without``, in every form.

    Returns components that are not there. A hub's cache may lack what no image needs, such as a
    safety checker; the copy's index does not name it then.
    """
    index = parse_object((source / _INDEX).read_bytes(), source / _INDEX, REMEDY)
    components = {
        name for name, row in index.items() if isinstance(row, list) and row != [None, None]
    }
    lost = sorted(name for name in components if not (source / name).is_dir())
    for file in _files(source):
        place = file.relative_to(source)
        inside = place.parts[0] if len(place.parts) > 1 else ""
        # A checkpoint beside the components, and a folder of another program, hold the old weights
        # once more.
        if _is_weights(file) and (inside == without or inside not in components):
            continue
        final = target / (KEPT_CARD if str(place) == NAME else place)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, final)
        if final.suffix == ".json":
            _without_paths(final)
    if lost:
        changed: dict[str, Any] = {name: [None, None] for name in lost}
        changed |= {"requires_safety_checker": False} if "safety_checker" in lost else {}
        text = parse_object((target / _INDEX).read_bytes(), target / _INDEX, REMEDY)
        (target / _INDEX).write_text(_dump(text | changed), encoding="utf-8")
    return lost


def _is_weights(file: Path) -> bool:
    return (
        file.suffix in _WEIGHTS
        or re.search(r"\.(safetensors|bin)\.index\b.*\.json$", file.name) is not None
    )


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yields all files, those behind links, too; what is hidden is some program's own."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name != ".gitattributes":
            continue
        if path.is_dir() and depth < _DEEPEST:
            yield from _files(path, depth + 1)
        elif path.is_file():
            yield path


def _without_paths(file: Path) -> None:
    """Takes out of a configuration where it lay on some machine.

    One that says no such thing stays as it is.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return  # not one of ours
    cleaned = _cleaned(content)
    if cleaned != content:
        file.write_text(_dump(cleaned), encoding="utf-8")


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(part) for key, part in value.items() if not _tells_a_place(key, part)}
    return [_cleaned(part) for part in value] if isinstance(value, list) else value


def _tells_a_place(key: str, value: object) -> bool:
    """Returns whether a value says where a library read a part from.

    A name on the hub, or none, may stay.
    """
    if not isinstance(value, str) or not key.endswith(("name_or_path", "_file", "_dir")):
        return False
    return (
        Path(value).is_absolute()
        or value.startswith(("~", ".."))
        or "\\" in value
        or _is_local(key, value)
    )


def _is_local(key: str, value: str) -> bool:
    return key.endswith("name_or_path") and bool(value) and _HUB_ID.fullmatch(value) is None


def _dump(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
