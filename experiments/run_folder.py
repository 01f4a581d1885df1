"""The folder of one run: reserved before anything heavy starts, locked while it runs, honest about its state."""

import fcntl
import hashlib
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
from experiments.files import read_json, write_json, write_text
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError, UserError

_REPLACED = ".replaced"
"""What an overwritten run had left, until the new one has begun."""
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

        With `resumed` what the folder holds stays. Else it is set aside, and comes back if the run ends before `begin`.
        """
        lock = self._claim(empty=not resumed)
        try:
            if not resumed:
                self.state["begun"] = False
            text = settings.dump(config)
            there = read_json(self / "run_state.json").get("configs", [])[:1]  # until the new one is written
            self.update(
                configs=[digest(text), *there], state="starting", reason=None, started=now(), finished=None, argv=argv,
                host=platform.node(), pid=os.getpid(), python=platform.python_version(), packages=package_versions(),
            )  # fmt: skip
            write_text(self / "config.yaml", text)
            try:
                with signals.noted(self._end):
                    yield self
            except BaseException as error:
                self._end(error)
                if (self / _REPLACED).is_dir() and not self.state.get("begun"):
                    self._bring_back()
                raise
            self.begin()
            self.update(state="finished", finished=now())
        finally:
            os.close(lock)

    def begin(self) -> None:
        """All actors are there and the warm-up is done: from now on this run counts, what it replaces is deleted."""
        shutil.rmtree(self / _REPLACED, ignore_errors=True)
        self.update(begun=True)

    def _end(self, error: BaseException) -> None:
        with suppress(MachineError):  # a full disk must not hide the first cause
            self.update(finished=now(), **_verdict(error))

    def update(self, **changes: Any) -> None:
        """Change `run_state.json` in one step."""
        self.state |= changes | {"updated": now()}
        write_json(self / "run_state.json", self.state)

    def _claim(self, empty: bool) -> int:
        """Create the folder, lock it against a second run of this name, and set aside what it holds if told so."""
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
        if empty:
            self._set_aside()
        return lock

    def _set_aside(self) -> None:
        aside = self / _REPLACED
        if aside.is_dir():  # by a run that was killed before it had begun
            self._clear()
        elif left := list(self.path.iterdir()):
            aside.mkdir()
            for old in left:
                old.rename(aside / old.name)

    def _bring_back(self) -> None:
        self._clear()
        for old in (self / _REPLACED).iterdir():
            old.rename(self / old.name)
        (self / _REPLACED).rmdir()

    def _clear(self) -> None:
        for left in self.path.iterdir():
            if left.name == _REPLACED:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


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
        if not overwrite and has_begun(path):
            raise ConfigError(f"{path} already holds a run; choose another --name or pass --overwrite")
        if not (path / "run_state.json").is_file() and not (path / _REPLACED).is_dir():
            raise ConfigError(f"{path} is no run folder and stays as it is; choose another --name")
    return RunFolder(path)


def has_begun(path: Path) -> bool:
    """Whether the folder holds more than the record of a run that failed before it had begun."""
    return bool(read_json(path / "run_state.json").get("begun", True)) or (path / _REPLACED).is_dir()


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


def digest(config: str) -> str:
    """SHA-256 of the text of a `config.yaml`."""
    return hashlib.sha256(config.encode()).hexdigest()


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
