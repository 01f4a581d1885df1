"""A component's folder as libraries look for it, whatever its weights are called."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_unlearn.models.model_folder import first_file, read_layout, shards
from rl_unlearn.models.weight_names import is_index, spellings


@contextmanager
def plainly_named(folder: Path, component: str, variant: str | None) -> Iterator[Path]:
    """The component's own folder, or for as long as it is read one of links, in which the chosen
    weights are plain.

    Libraries look for variants under one spelling each, and for an index before a single file: so
    read they would be other weights than `model_folder.weight_files` names.
    """
    place, stem = folder / component, read_layout(folder).networks[component].stem
    first = first_file(folder, component, variant)
    single, index = spellings(stem, None)
    if first.name == index or (first.name == single and not (place / index).exists()):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="rl-unlearn-") as made:
        view = Path(made)
        (view / "config.json").symlink_to((place / "config.json").absolute())
        (view / (index if is_index(first.name) else single)).symlink_to(first.absolute())
        for name in shards(first) if is_index(first.name) else ():
            (view / name).symlink_to((place / name).absolute())
        yield view
