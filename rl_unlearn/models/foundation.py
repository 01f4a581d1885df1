"""What a run stands on: the files of the model, the adapters below it, the CLIPs and the lists of
prompts.

Recorded as SHA-256 when a run begins. Whoever goes on with the run, or uses its adapter, compares:
on another foundation the same adapter means something else, and nothing would show it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rl_unlearn import canvas, plugins, reward_names
from rl_unlearn.adapters.adapter_file import locate
from rl_unlearn.config import Config, Model
from rl_unlearn.errors import DataError
from rl_unlearn.files.file_digest import file_digest, folder_digest
from rl_unlearn.models.location import fetched_folder
from rl_unlearn.models.model_folder import components, read_layout, weight_files
from rl_unlearn.prompt_file import read_prompts

MODEL, ADAPTER, LISTS, CLIPS, CLASSIFIERS = (
    "model",
    "model.adapters",
    "prompts",
    "clip",
    "reward.images",
)
KINDS = {
    MODEL: "the model",
    ADAPTER: "the adapter",
    LISTS: "the prompt list",
    CLIPS: "the CLIP",
    CLASSIFIERS: "the reward",
}
"""Kinds of what is recorded, in words."""
DRAWN = (MODEL, ADAPTER)
"""Those that decide what is drawn."""
_SMALL = (".json", ".txt", ".jinja")


def of_model(model: Model) -> dict[str, str]:
    """`model FILE` and `model.adapters PATH` -> SHA-256: all that decides what a model draws."""
    folder = fetched_folder(model)
    files = [folder / "model_index.json"]
    layout = read_layout(folder)
    for name in components(folder):
        files += sorted(file for ending in _SMALL for file in (folder / name).glob(f"*{ending}"))
        files += weight_files(folder, name, model.variant) if name in layout.networks else []
    record = {f"{MODEL} {file.relative_to(folder)}": file_digest(file) for file in files}
    if layout.pipeline in plugins.names(plugins.FAMILIES):
        record[f"{MODEL} {layout.pipeline}"] = _package(plugins.FAMILIES, layout.pipeline)
    return record | {f"{ADAPTER} {path}": file_digest(locate(path)) for path in model.adapters}


def of_run(config: Config) -> dict[str, str]:
    """Returns the same, with the CLIPs that reward and select, and the lists of prompts."""
    record = of_model(config.model)
    for key, path in (
        ("target_file", config.prompts.target_file),
        ("retain_file", config.prompts.retain_file),
    ):
        if path is not None:
            record[f"{LISTS} {key}"] = hashlib.sha256(
                "\n".join(read_prompts(path)).encode()
            ).hexdigest()
    named: tuple[tuple[canvas.ClipName, str], ...] = (
        ("reward", config.reward.clip), ("selection", config.selection.clip)
    )  # fmt: skip
    for key, spec in named:
        folder = canvas.clip_path(key) if spec == "canvas" else Path(spec)
        if folder.is_dir():
            record[f"{CLIPS} {key}"] = folder_digest(_files(folder))
    trait = reward_names.trait(config.concept)
    functions = (trait, config.selection.image)
    if trait is not None and reward_names.canvas_trait(trait) is not None:
        roles: tuple[canvas.TraitRole, ...] = ("reward", "selection")
        for role in roles:
            place = canvas.traits_path(role)
            record[f"{CLASSIFIERS} {trait} {role}"] = folder_digest(_files(place))
    for name in (*config.reward.images, *filter(None, functions)):
        parts = reward_names.classifier(name)
        if parts is not None and Path(parts[0]).is_dir():
            record[f"{CLASSIFIERS} {name}"] = folder_digest(_files(Path(parts[0])))
        elif parts is None and name in plugins.names(plugins.REWARDS):
            record[f"{CLASSIFIERS} {name}"] = _package(plugins.REWARDS, name)
    return record


def _package(group: str, name: str) -> str:
    """Returns the SHA-256 of the package that adds it, by name and version."""
    return hashlib.sha256(plugins.version(group, name).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


def drawn(record: Mapping[str, str]) -> dict[str, str]:
    """Returns the part of a record that decides what is drawn."""
    return {name: digest for name, digest in record.items() if name.partition(" ")[0] in DRAWN}


def model_digest(model: Model) -> str:
    """Returns one SHA-256 for a model, wherever its files lie: whoever has the same one draws with
    the same weights.
    """
    return digest(of_model(model))


def digest(record: Mapping[str, str]) -> str:
    """Returns one SHA-256 for a record; the paths of adapters do not count."""
    rows = [(_place(name), value) for name, value in record.items()]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def check(
    recorded: Mapping[str, str], now: Mapping[str, str], whose: str, kinds: Iterable[str] = KINDS
) -> None:
    """Raises DataError, which names the run and what has changed below it, unless both are the
    same.

    ``kinds``: those that are compared. Paths of adapters do not count, their order does.
    """
    for kind in kinds:
        before, after = _of_kind(recorded, kind), _of_kind(now, kind)
        for place in [*before, *(place for place in after if place not in before)]:
            (name, was), (other, present) = before.get(place, ("", "")), after.get(place, ("", ""))
            if was != present:
                raise DataError(
                    f"{whose} stands on {KINDS[kind]} {(other or name).partition(' ')[2]} as it "
                    "was when the run was made, and it is another one now: put it back, or make "
                    "the run again"
                )


def _of_kind(record: Mapping[str, str], kind: str) -> dict[str, tuple[str, str]]:
    rows = [(name, digest) for name, digest in record.items() if name.partition(" ")[0] == kind]
    if kind == ADAPTER:
        return {str(number): row for number, row in enumerate(rows)}
    return {name: (name, digest) for name, digest in rows}


def _place(name: str) -> str:
    return ADAPTER if name.startswith(f"{ADAPTER} ") else name
