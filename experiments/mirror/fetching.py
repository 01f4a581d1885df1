"""A run brought here from its copies in a store: the newest that is whole, checked byte by byte."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from experiments.files import make_folder
from experiments.mirror import copies
from experiments.mirror.copies import Copy
from experiments.mirror.mirror import Mirror
from experiments.mirror.store import Store
from experiments.runs import manifest, replacing
from experiments.runs.resuming import is_run
from experiments.runs.run_folder import has_begun
from experiments.runs.run_state import read_state
from rl_unlearn.errors import ConfigError, DataError, MachineError

Say = Callable[[str], None]
_TRIES = 3
"""How often the store is listed anew, because what was fetched has been deleted meanwhile."""


def go_on_here(mirror: Mirror, path: Path, say: Say) -> None:
    """Puts the newest copy into run folder `path`, unless what is there is as new.

    Raises ConfigError if the folder and the store hold two different runs, DataError if no copy is
    whole.
    """
    kept = mirror.complete(say)
    there = read_state(path).mirrored if is_run(path) and has_begun(path) else None
    if not kept:
        return
    if is_run(path) and has_begun(path):
        if there is None or mirror.counts not in (there.run, there.replaces):
            raise ConfigError(
                f"{path} and {mirror.store.place} hold two different runs: choose another --name, "
                "or move the folder away to go on with the store's"
            )
        if mirror.counts == there.replaces or kept[0].session in there.sessions:
            return
        say(f"another machine has gone on with {mirror.store.place}: its copy replaces {path}")
    _check_free(path)
    _bring(mirror.store, mirror.complete, path, say)


def check_free(mirror: Mirror, say: Say) -> None:
    """Raises ConfigError if the store holds a run of this name."""
    if kept := mirror.complete(say):
        raise ConfigError(
            f"{mirror.store.place} already holds a run ({kept[0].title}); choose another --name, "
            "go on with it by --resume auto, or pass --overwrite"
        )


def fetch(store: Store, run: str, path: Path, say: Say) -> Copy:
    """Puts the newest copy of a run into folder `path`, which may not hold anything yet."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is already there: choose another --out, or move it away")
    return _bring(store, lambda warn: copies.complete(store, run, warn), path, say)


def _check_free(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()) and not (path / "run_state.json").is_file():
        raise ConfigError(f"{path} is no run folder and stays as it is; choose another --name")


def _bring(store: Store, listed: Callable[[Say], list[Copy]], path: Path, say: Say) -> Copy:
    make_folder(path.parent, "set output=... to a writable folder")
    aside = path.parent / f".{path.name}.fetched"
    locks = replacing.claim(path, empty=False)
    try:
        copy = _first_whole(store, listed, aside, say)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        _leave(path)
        raise
    finally:
        for lock in locks:
            os.close(lock)
    _put(aside, path)
    say(f"{copy.title} of {store.place} is in {path}")
    return copy


def _first_whole(store: Store, listed: Callable[[Say], list[Copy]], aside: Path, say: Say) -> Copy:
    """Fetches the newest copy that is whole; DataError if none is."""
    copies_left, tries = listed(say), _TRIES
    while copies_left:
        copy = copies_left.pop(0)
        shutil.rmtree(aside, ignore_errors=True)
        make_folder(aside, "set output=... to a writable folder")
        try:
            copies.get(store, copy, aside)
            _check(aside, copy)
            return copy
        except DataError as error:
            if tries and store.size(f"{copy.run}/{copy.name}/{copies.COMPLETE}") is None:
                copies_left, tries = listed(say), tries - 1  # it was deleted for a newer one
                continue
            say(f"{store.place}: {error}; the copy before is taken")
    raise DataError(f"no copy in {store.place} is whole: start the run anew with --overwrite")


def _check(folder: Path, copy: Copy) -> None:
    """Raises DataError if a fetched folder, whose files are as listed, is no run to go on with."""
    state = read_state(folder)
    if not is_run(folder) or state.begun is not True or state.mirrored is None:
        raise DataError(f"{copy.title}: it is no run folder")
    if not copy.complete.finished:
        checkpoint = folder / "checkpoints" / f"round-{copy.complete.round:06d}"
        if (damage := manifest.damage(checkpoint)) is not None:
            raise DataError(f"{copy.title}: its checkpoint is damaged ({damage})")


def _put(aside: Path, path: Path) -> None:
    """Puts a fetched folder in its place, by renames as `replacing` makes them: a kill leaves what
    was there or what was fetched.
    """
    locks = replacing.claim(path, empty=True)
    try:
        try:
            aside.rename(path)  # an empty folder gives way
        except OSError as error:
            replacing.bring_back(path)
            raise MachineError(f"cannot make the run folder {path}: {error.strerror}") from error
        replacing.forget(path)
    finally:
        for lock in locks:
            os.close(lock)


def _leave(path: Path) -> None:
    """Takes away the empty folder that the lock was on."""
    with suppress(OSError):
        path.rmdir()
