"""Where a CLIP comes from, looked at before open_clip sees it: nothing there may run code or ask
another place.
"""

import difflib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rl_unlearn.clip import clip_layout
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object
from rl_unlearn.files.tensor_header import read_header
from rl_unlearn.models.model_folder import compare

_READ_FIRST = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
"""Which of several files open_clip reads."""
_REMEDY = "fetch the CLIP again"


def check(key: str, spec: str) -> None:
    """Raises DataError, which names the setting ``key``, unless ``spec`` is `canvas`, a safe folder
    or `arch/pretrained`.

    Needs neither torch nor open_clip. Whether there are such weights only open_clip knows.
    """
    if spec == "canvas":
        return
    if Path(spec).is_dir():
        check_folder(key, Path(spec))
        return
    architecture, slash, tag = spec.partition("/")
    # open_clip takes a file in place of a name, and would read it as a pickle.
    if Path(spec).exists() or Path(tag).exists() or spec.startswith((".", "/", "~")):
        raise DataError(
            f"{key}={spec}: is no folder: give a folder in open_clip's layout, or arch/pretrained"
        )
    if not slash or not tag or "/" in tag or ":" in spec:
        raise DataError(
            f"{key} {spec!r} is neither 'canvas', a folder, nor an open_clip 'arch/pretrained' pair"
        )
    package = find_spec("open_clip")
    known = Path(package.origin or "").parent / "model_configs" if package else None
    if known is not None and known.is_dir() and not (known / f"{architecture}.json").is_file():
        names = sorted(file.stem for file in known.glob("*.json"))
        raise DataError(
            f"{key}={spec}: open_clip has no architecture "
            f"{architecture!r}{_nearest(architecture, names)}"
        )


def check_tag(key: str, spec: str, tags: list[str]) -> None:
    """Raises DataError unless the weights that `arch/pretrained` names are among those of the
    architecture.
    """
    tag = spec.partition("/")[2]
    if tag not in tags:
        raise DataError(
            f"{key}={spec}: open_clip has no weights {tag!r} of it{_nearest(tag, tags)}"
        )


def check_folder(key: str, folder: Path) -> None:
    """Raises DataError unless the folder holds a CLIP that is read from its own safetensors and
    nothing else.
    """
    where = f"{key}: CLIP folder {str(folder)!r}"
    # Where both are there open_clip may prefer the pickle.
    pickles = [
        path.name
        for kind in ("bin", "pt", "pth", "npz", "npy")
        for path in sorted(folder.glob(f"*.{kind}"))
    ]
    if pickles:
        raise DataError(
            f"{where} has pickled weights ({pickles[0]}): keep converted ones alone there"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise DataError(f"{where} has no .safetensors weights: put them there")
    headers = {file.name: read_header(file, _REMEDY) for file in weights}
    config = read_object(folder / "open_clip_config.json", _REMEDY)
    parts = _object(config, "model_cfg", where)
    text, vision = _object(parts, "text_cfg", where), _object(parts, "vision_cfg", where)
    if "hf_model_name" in text:
        raise DataError(
            f"{where} names a text tower of another place ({text['hf_model_name']}): it is not "
            "fetched"
        )
    tower = str(vision.get("timm_model_name", ""))
    if ":" in tower or "/" in tower:
        raise DataError(
            f"{where} names an image tower of another place ({tower}): it is not fetched"
        )
    read = next(
        (headers[name] for name in _READ_FIRST if name in headers), headers[weights[0].name]
    )
    expected, present = clip_layout.names(parts), set(read.shapes)
    if (
        expected is not None and expected & present
    ):  # another program's spelling: open_clip may know it
        compare(folder, f"{key}: the CLIP", expected - present, present - expected)
    for name in ("tokenizer_config.json", "config.json"):
        if (folder / name).is_file() and "auto_map" in read_object(folder / name, _REMEDY):
            raise DataError(
                f"{where}: {name} names code of its own (auto_map), which is not run: remove it"
            )


def _object(content: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise DataError(
            f"{where}: open_clip_config.json has no {name}, but {json.dumps(part)[:50]}: {_REMEDY}"
        )
    return part


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names[:8])}"
