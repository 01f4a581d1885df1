"""A checkpoint in one file, as Stable Diffusion's makers wrote them: made into a pipeline's folder
once, and kept.

The file holds weights alone. What they are the weights of is said by another pipeline's folder,
``model.config``.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

from rl_unlearn.adapters.adapter_file import PICKLES
from rl_unlearn.config import Model
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.files.file_digest import cache_file, file_digest, folder_digest
from rl_unlearn.files.json_file import read_object
from rl_unlearn.files.tensor_header import read_header
from rl_unlearn.models import hub, model_folder

_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def named(model: Model) -> bool:
    """Tells whether ``model.path`` is such a file; raises DataError for a pickle, ConfigError for a
    setting that is missing.

    Without a file ``model.config`` would have no effect.
    """
    file = Path(model.path)
    if file.suffix in PICKLES and file.is_file():
        raise DataError(
            f"model.path {model.path!r} is a pickle, which can run code when read: convert it first"
        )
    if not file.is_file():
        if model.config is not None:
            raise ConfigError(
                f"model.config is for a model in a single file, which model.path={model.path} is "
                "not"
            )
        return False
    if model.config is None:
        raise ConfigError(
            f"model.path={model.path} is a single file: name a pipeline's folder or hub id of its "
            "kind by model.config, which says what its weights are, or convert it to a folder "
            "with diffusers' save_pretrained"
        )
    return True


def place(model: Model) -> Path:
    """Tells where the folder is, or will be: it is known by the file's content and by what
    describes it.

    Raises DataError if either cannot be had.
    """
    read_header(Path(model.path))
    described = _described(model)
    small = folder_digest(
        file for part in _parts(described) for file in sorted(part.iterdir()) if _is_small(file)
    )
    return cache_file().parent / "converted" / f"{file_digest(Path(model.path))}-{small[:16]}"


def converted(model: Model) -> Path:
    """Returns the folder, made now if it is not there.

    Raises DataError for a file that is not of the kind that ``model.config`` describes,
    MachineError for a full disk.
    """
    target = place(model)
    if target.is_dir():
        return target
    if not target.is_absolute():
        raise MachineError(
            "a single file is converted in the user's cache, and there is none: set XDG_CACHE_HOME"
        )
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _convert(model, _described(model), aside)
        if not target.is_dir():  # another process may have been first
            aside.rename(target)
    except OSError as error:
        raise MachineError(
            f"cannot write {target}: {error}; free space, or set XDG_CACHE_HOME"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _described(model: Model) -> Path:
    """Returns the folder that ``model.config`` names, of which no weights are needed."""
    about = Model(path=str(model.config))
    folder = Path(about.path) if Path(about.path).is_dir() else None
    if folder is None:
        folder = model_folder.named_folder(about) or hub.fetch_small(about)
    layout = model_folder.read_layout(folder)
    if not layout.single_file:
        can = ", ".join(name for name, known in model_folder.LAYOUTS.items() if known.single_file)
        raise DataError(
            f"model.config {model.config!r} is a {layout.pipeline}: a single file can be one of "
            f"{can}"
        )
    model_folder.read_parts(folder)
    return folder


def _parts(folder: Path) -> list[Path]:
    return [folder / name for name in model_folder.components(folder) if (folder / name).is_dir()]


def _is_small(file: Path) -> bool:
    return file.is_file() and file.suffix in (".json", ".txt") and ".index." not in file.name


def _convert(model: Model, described: Path, aside: Path) -> None:
    import diffusers
    import torch

    for part in _parts(described):
        (aside / part.name).mkdir(parents=True)
        for file in filter(_is_small, part.iterdir()):
            shutil.copyfile(file, aside / part.name / file.name)
    kept = {"_class_name", "_diffusers_version", *model_folder.components(described)}
    index = read_object(described / "model_index.json")
    rows = {
        key: [None, None] if isinstance(row, list) and key not in kept else row
        for key, row in index.items()
    }
    rows |= {"requires_safety_checker": False} if "requires_safety_checker" in rows else {}
    text = json.dumps({key: row for key, row in rows.items() if key != "_name_or_path"}, indent=2)
    (aside / "model_index.json").write_text(text + "\n", encoding="utf-8")
    layout, kinds = (
        model_folder.read_layout(described),
        Counter(read_header(Path(model.path)).dtypes.values()),
    )
    most = next((name for name, _ in kinds.most_common() if name in _TYPES), "F32")
    try:
        pipeline = getattr(diffusers, layout.pipeline).from_single_file(
            model.path,
            config=str(aside),
            local_files_only=True,
            torch_dtype=getattr(torch, _TYPES[most]),
            safety_checker=None,
        )
        for name in layout.networks:
            getattr(pipeline, name).save_pretrained(aside / name, safe_serialization=True)
    except Exception as error:  # the library raises whatever it trips over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"model.path {model.path!r} is no checkpoint of the kind that model.config "
            f"{model.config!r} describes: {reason}"
        ) from error
    for name in layout.networks:  # as they were described, without where they were read from
        shutil.copyfile(described / name / "config.json", aside / name / "config.json")
    model_folder.check(aside, None)
