"""The folder of one run: reserved before anything heavy starts, locked while it runs, honest about its state."""

import fcntl
import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments import settings, signals
from experiments.files import write_json, write_text
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError, UserError

PACKAGES = ("rl-unlearn", "torch", "ray", "diffusers", "transformers", "peft", "open_clip_torch", "pyarrow", "numpy")


@dataclass
class RunFolder:
    """Paths of a run and its `run_state.json`."""

    path: Path
    state: dict[str, Any] = field(default_factory=dict)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def running(self, config: Config, argv: list[str], resumed: bool = False) -> Iterator["RunFolder"]:
        """Make the folder, then keep `run_state.json` true until the block is left, however it is left.

        With `resumed` what the folder holds stays.
        """
        lock = self._claim(empty=not resumed)
        try:
            write_text(self / "config.yaml", settings.dump(config))
            self.update(
                state="starting", reason=None, started=now(), finished=None, argv=argv, host=platform.node(),
                pid=os.getpid(), python=platform.python_version(), packages=package_versions(),
            )  # fmt: skip
            try:
                yield self
            except BaseException as error:
                with suppress(MachineError):  # a full disk must not hide the first cause
                    self.update(finished=now(), **_verdict(error))
                raise
            self.update(state="finished", finished=now())
        finally:
            os.close(lock)

    def update(self, **changes: Any) -> None:
        """Change `run_state.json` in one step."""
        self.state |= changes | {"updated": now()}
        write_json(self / "run_state.json", self.state)

    def _claim(self, empty: bool) -> int:
        """Create the folder, lock it against a second run of this name, and empty it if told so."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise MachineError(f"cannot make the run folder {self.path}: {error.strerror}; set output=...") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(f"another run is writing {self.path}; wait for it or choose another --name") from error
        except OSError:
            pass  # a file system without locks
        for left in self.path.rglob(".*.tmp"):  # half written by a run that was killed; the lock says that it is gone
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        for old in self.path.iterdir() if empty else ():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        return lock


def reserve(config: Config, overwrite: bool) -> RunFolder:
    """Check that the run may write where its configuration says; changes nothing on disk."""
    root = Path(config.output)
    path = root / config.run_name
    if path.resolve().parent != root.resolve():
        raise ConfigError(f"{path} leads out of {root}; choose another --name")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose another --name")
    _check_writable(path)
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise ConfigError(f"{path} already holds a run; choose another --name or pass --overwrite")
        if not (path / "run_state.json").is_file():
            raise ConfigError(f"{path} is no run folder and stays as it is; choose another --name")
    return RunFolder(path)


def _check_writable(path: Path) -> None:
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise MachineError(f"cannot write to {there}: {error.strerror}; set output=... to a writable folder") from error


def _verdict(error: BaseException) -> dict[str, Any]:
    if isinstance(error, KeyboardInterrupt):
        return {"state": "stopped", "reason": getattr(error, "name", signals.cause(error).name)}
    if not isinstance(error, UserError):
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {"state": "failed", "reason": str(error)} | (
        {"traceback": traceback.format_exc()} if error.__cause__ else {}
    )


def package_versions() -> dict[str, str]:
    """Installed versions of what decides a result."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def now() -> str:
    """UTC time for people and for sorting."""
    return datetime.now(UTC).isoformat(timespec="seconds")
