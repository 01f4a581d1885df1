"""How one run takes another's place, so that a kill at any moment loses neither.

The old run is set aside as a whole, by one rename, into `.NAME.replaced` beside it. Once the new
one is on record as begun, which is the only proof that the old one is no longer wanted, it is
deleted; else it is put back, by the next start of that name at the latest. Locks are held on the
folders themselves: a folder takes its lock along.
"""

import fcntl
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from experiments.runs.run_state import NAME, read_state
from rl_unlearn.errors import ConfigError, MachineError, UserError
from rl_unlearn.files.durable import sync_folder

_HALF_WRITTEN = re.compile(r"\..+\.\d+\.tmp")
_TRIES = 100
_PAUSE = 0.05


def aside(path: Path) -> Path:
    """Returns where the run that was in folder `path` waits until the new one has begun."""
    return path.parent / f".{path.name}.replaced"


def restore(path: Path) -> None:
    """Mends what a start that was killed has left.

    Raises ConfigError if another process is at work there.
    """
    if os.path.lexists(aside(path)):
        for lock in claim(path, empty=False):
            os.close(lock)


def claim(path: Path, empty: bool) -> list[int]:
    """Makes folder `path`, locked against a second run of this name.

    Sets aside what it holds if it shall be `empty`. Returns the locks, to be closed at the end of
    the run. Raises ConfigError if another process holds them.
    """
    locks: list[int] = []
    try:
        locks.append(_locked(path))
        _sweep(path)
        _mend(path)
        if empty and any(path.iterdir()):
            path.rename(aside(path))
            sync_folder(path.parent)
            locks.append(_locked(path, patient=True))
    except BaseException as error:
        with suppress(OSError):
            if len(locks) == 1 and empty and not path.exists() and aside(path).exists():
                aside(path).rename(path)
        for lock in locks:
            os.close(lock)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise MachineError(
                f"cannot make the run folder {path}: {reason}; set output=..."
            ) from error
        raise
    return locks


def bring_back(path: Path) -> None:
    """Puts the run that was set aside back in its place; what came after it had not begun.

    Called with the locks.
    """
    with suppress(OSError, UserError):  # nothing hides why it ended; the next start tries again
        if aside(path).is_dir():
            _put_back(path)


def forget(path: Path) -> None:
    """Deletes the run that was set aside, for the new one has begun. Called with the locks."""
    old = aside(path)
    if old.is_dir() and read_state(path).begun is True:
        with suppress(FileNotFoundError):
            (old / NAME).unlink()  # first, so that what is left of it passes for no run
        shutil.rmtree(old, ignore_errors=True)


def _locked(path: Path, patient: bool = False) -> int:
    """Returns a lock on the folder that has this name now, which is made if it is not there.

    A start that looks at what is set aside holds it for moments: that is worth waiting for.
    """
    for number in range(_TRIES):
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(lock)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass  # it was renamed just now
        except BlockingIOError:
            if not patient or number == _TRIES - 1:
                os.close(lock)
                raise ConfigError(
                    f"another run is writing {path}; wait for it or choose another --name"
                ) from None
            time.sleep(_PAUSE)
        os.close(lock)
    raise ConfigError(f"another run is writing {path}; wait for it or choose another --name")


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks


def _mend(path: Path) -> None:
    """Decides between a run that was set aside and what has its place."""
    old = aside(path)
    if not os.path.lexists(old):
        return
    if old.is_symlink() or not old.is_dir():
        raise ConfigError(f"{old} stands in the way and is no run that was set aside: move it away")
    handle = os.open(old, os.O_RDONLY)
    try:
        try:
            _lock(handle)
        except BlockingIOError as error:
            raise ConfigError(
                f"another run is starting in {path}; wait for it or choose another --name"
            ) from error
        if read_state(path).begun is True:
            forget(path)
        else:
            _put_back(path)
    finally:
        os.close(handle)


def _put_back(path: Path) -> None:
    old = aside(path)
    if not (old / NAME).is_file():
        raise ConfigError(f"{old} stands in the way and is no run that was set aside: move it away")
    if any(path.iterdir()):
        if read_state(path).begun is not False:
            raise ConfigError(f"{path} and {old} may both be runs: move one of them away")
        _clear(path)
    old.rename(path)  # an empty folder gives way
    sync_folder(path.parent)


def _clear(path: Path) -> None:
    """Deletes what a start that had not begun has left; the record that says so last."""
    for left in sorted(path.iterdir(), key=lambda left: left.name == NAME):
        _delete(left)


def _sweep(path: Path) -> None:
    """Deletes what a killed run has half written; the lock says that it is gone."""
    for left in [left for left in path.rglob(".*.tmp") if _HALF_WRITTEN.fullmatch(left.name)]:
        _delete(left)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
