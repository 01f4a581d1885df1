"""The folder of a sweep: what was asked for, locked while it runs, refused when asked for something
else.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.tuning import EXPERIMENT
from experiments import settings, strict_yaml
from experiments.files import write_text
from experiments.sweep.space import Space
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError

MAY_CHANGE = ("name", "output", "cluster.address")
"""What a resumed sweep may set anew; all else would make its trials incomparable."""


@dataclass(frozen=True)
class SweepFolder:
    """Paths of a sweep."""

    path: Path

    @property
    def base(self) -> Path:
        """The configuration that all trials share."""
        return self.path / "base.yaml"

    @property
    def space(self) -> Path:
        """What they vary."""
        return self.path / "space.yaml"

    def check_new(self) -> None:
        """Raises ConfigError if something lies here already."""
        if self.space.is_file():
            raise ConfigError(
                f"{self.path} already holds a sweep; continue it with --resume or choose another "
                "--name"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} already exists and is no sweep; choose another --name")

    def check_resumable(self) -> None:
        """Raises ConfigError if there is nothing to continue or to read."""
        if not (self.space.is_file() and self.base.is_file()):
            raise ConfigError(
                f"{self.path} holds no sweep (no space.yaml and base.yaml); check --name and "
                "output=..."
            )

    def check_same(self, base: Config, space: Space) -> None:
        """Raises ConfigError, with the keys that differ, if another sweep was asked for here."""
        was, now = settings.recorded(self.base), base
        keys = [key for key, field in settings.fields().items() if not settings.is_section(field)]
        different = [
            k
            for k in keys
            if k not in MAY_CHANGE and settings.value(was, k) != settings.value(now, k)
        ]
        stored, asked = strict_yaml.read(self.space), space.file.model_dump(exclude_unset=True)
        for name in dict.fromkeys([*stored, *asked]):
            before, after = stored.get(name), asked.get(name)
            if before == after:
                continue
            if isinstance(before, dict) and isinstance(after, dict):
                inner = dict.fromkeys([*before, *after])
                different += [f"{name}.{key}" for key in inner if before.get(key) != after.get(key)]
            else:
                different.append(name)
        if different:
            raise ConfigError(
                f"{self.path} was started with other values of {', '.join(different)}: restore "
                "them, leave --config and --space out, or choose another --name"
            )

    @contextmanager
    def running(self, base: Config, space: Space) -> Iterator[None]:
        """Makes the folder, writes down what is asked for, and keeps a second sweep of this name
        out.
        """
        handle = self._claim()
        try:
            if not self.space.is_file():
                write_text(self.base, settings.dump(base))
                write_text(self.space, strict_yaml.dump(space.file.model_dump(exclude_unset=True)))
            yield
        finally:
            os.close(handle)

    def _claim(self) -> int:
        try:
            (self.path / EXPERIMENT).mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise MachineError(
                f"cannot make the sweep folder {self.path}: {error.strerror}; set output=..."
            ) from error
        try:
            _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ConfigError(
                f"another sweep is writing {self.path}; wait for it or choose another --name"
            ) from error
        return handle


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until no other trial of the same settings is at work, not even one that a killed sweep
    left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> None:
    """Locks a file, or goes on without where there are no locks; BlockingIOError if another process
    holds it.
    """
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        raise
    except OSError:
        pass
