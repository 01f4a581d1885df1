"""Models on the hub: only the files that a pipeline is read from are fetched, and which commit they
are of is known.

Without a network, or without leave to use one, what was fetched before is taken from the hub's
cache.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from rl_unlearn.config import Model
from rl_unlearn.errors import DataError
from rl_unlearn.files.json_file import read_object
from rl_unlearn.models import model_folder, weight_names

_INDEX = "model_index.json"
_SMALL = (".json", ".txt", ".model", ".jinja")
"""Endings of configurations, vocabularies and templates."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_known: dict[tuple[str, ...], Path] = {}
"""What this process has fetched: a branch that moves while it works does not give it a second
model."""


def fetch(model: Model) -> Path:
    """Returns the folder, in the hub's cache, of the commit that ``model.revision`` stands for;
    raises DataError if it is not had.
    """
    from huggingface_hub import constants

    key = (model.path, model.revision or "", model.variant or "", str(constants.HF_HUB_CACHE))
    if key not in _known or not _known[key].is_dir():
        _known[key] = _fetch(model)
    return _known[key]


def _fetch(model: Model) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(model.path, revision=model.revision)
        names = {file.rfilename for file in info.siblings or ()}
        if _INDEX not in names:
            raise DataError(
                f"model.path {model.path!r} has no {_INDEX}: give a pipeline in diffusers layout"
            )
        folder = Path(hf_hub_download(model.path, _INDEX, revision=info.sha)).parent
        wanted = {_INDEX}
        for component in model_folder.components(folder):
            present = {
                name.removeprefix(f"{component}/")
                for name in names
                if name.startswith(f"{component}/")
            }
            first = chosen(folder, component, present, model.variant)
            wanted |= {f"{component}/{name}" for name in _small(present, first)}
            if first is not None and weight_names.is_index(first):
                index = Path(hf_hub_download(model.path, f"{component}/{first}", revision=info.sha))
                wanted |= {f"{component}/{name}" for name in model_folder.shards(index)}
        return Path(
            snapshot_download(model.path, revision=model.revision, allow_patterns=sorted(wanted))
        )
    except DataError:
        raise
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(_refused(model, error)) from error
    except (
        Exception
    ) as error:  # no network, offline mode, a proxy, a hub that is down: all the same here
        folder_here = cached(model)
        if folder_here is None:
            raise DataError(_refused(model, error)) from error
        return folder_here


def fetch_small(model: Model) -> Path:
    """Returns the folder with the model's configurations and vocabularies alone; raises DataError
    if they cannot be had.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    index = try_to_load_from_cache(model.path, _INDEX, revision=model.revision)
    if isinstance(index, str):
        folder = Path(index).parent
        if all((folder / part).is_dir() for part in model_folder.components(folder)):
            return folder
    try:
        return Path(
            snapshot_download(
                model.path, revision=model.revision, allow_patterns=["*.json", "*/*.txt"]
            )
        )
    except Exception as error:  # no network, no such name, no leave: the remedy is the same
        raise DataError(_refused(model, error)) from error


def complete(model: Model, folder: Path) -> None:
    """Fetches what else a copy for others holds into a folder of the cache; without a network
    nothing.
    """
    from huggingface_hub import HfApi, hf_hub_download

    sha = commit(folder)
    if sha is None:
        return
    with suppress(Exception):  # no network: the cache is what there is
        info = HfApi().model_info(model.path, revision=sha)
        names = {file.rfilename for file in info.siblings or ()}
        index, parts = read_object(folder / _INDEX), model_folder.components(folder)
        for part in (
            name for name, row in index.items() if isinstance(row, list) and name not in parts
        ):
            present = {name for name in names if name.startswith(f"{part}/")}
            for name in _plain_weights(present):
                hf_hub_download(model.path, name, revision=sha)
        for name in (
            name for name in names if "/" not in name and Path(name).suffix in ("", ".md", ".txt")
        ):
            hf_hub_download(model.path, name, revision=sha)


def _plain_weights(names: Collection[str]) -> set[str]:
    """Configurations and one set of weights of a part that is only handed on, not read."""
    small = {name for name in names if name.endswith(_SMALL)}
    weights = {name for name in names if re.search(r"/[a-z_]+\.(safetensors|bin)$", name)}
    safe = {name for name in weights if name.endswith(".safetensors")}
    return small | (safe or weights)


def _refused(model: Model, error: Exception) -> str:
    revision = f" (model.revision={model.revision})" if model.revision else ""
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"model.path {model.path!r}{revision} cannot be fetched, and is not whole in the hub's "
        f"cache: {reason[:300]}"
    )


def chosen(folder: Path, component: str, names: Collection[str], variant: str | None) -> str | None:
    """Returns the file of a component's weights to begin with, by the names beside it; None for a
    part without weights.
    """
    network = model_folder.read_layout(folder).networks.get(component)
    return None if network is None else weight_names.entry(names, network.stem, variant)


def _small(names: Collection[str], first: str | None) -> Iterator[str]:
    """Configurations, and the weights or their index; no other index, which would name files that
    are not fetched.
    """
    for name in names:
        small = "/" not in name and name.endswith(_SMALL) and ".safetensors.index" not in name
        if name == first or (small and ".bin.index" not in name):
            yield name


def cached(model: Model) -> Path | None:
    """Returns what is whole in the hub's cache, told without a network; None if it is not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(model.path, _INDEX, revision=model.revision)
    except ValueError as error:
        raise DataError(
            f"model.path {model.path!r} is no hub id: {str(error).splitlines()[0]}"
        ) from error
    return (
        Path(index).parent
        if isinstance(index, str) and _is_whole(Path(index).parent, model)
        else None
    )


def _is_whole(folder: Path, model: Model) -> bool:
    try:
        model_folder.read_layout(folder)
    except DataError:
        return True  # another kind of model: the look at it says so
    networks = model_folder.read_layout(folder).networks
    for part in model_folder.components(folder):
        if not (folder / part).is_dir():
            return False
        if part in networks:
            try:
                files = model_folder.weight_files(folder, part, model.variant)
            except DataError:
                return False
            if not all(file.is_file() for file in files):
                return False
    return True


def commit(folder: Path) -> str | None:
    """Returns the commit that a folder in the hub's cache is of; None for any other folder."""
    return (
        folder.name
        if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
        else None
    )
