"""The folder of one run: reserved before anything heavy starts, locked while it runs, honest about
its state.
"""

import hashlib
import os
import platform
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
from experiments.runs import origin, replacing, run_state
from experiments.runs.run_state import RunState, read_state
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, MachineError, UserError

PACKAGES = (
    "rl-unlearn",
    "torch",
    "ray",
    "diffusers",
    "transformers",
    "peft",
    "open_clip_torch",
    "pyarrow",
    "numpy",
)


@dataclass
class RunFolder:
    """The folder of a run and its `run_state.json`."""

    path: Path
    state: RunState = field(default_factory=RunState)
    _config: str | None = None
    """The `config.yaml` of a resumed run, until it is written."""
    _silent: bool = False
    """Whether nothing is written yet: a finished run stays as it is until its training goes on."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def running(
        self, config: Config, argv: list[str], resumed: bool = False
    ) -> Iterator["RunFolder"]:
        """Makes the folder, then keeps `run_state.json` true until the block is left, in whatever
        way.

        With `resumed` what the folder holds stays. Else it is set aside, and comes back if the run
        ends before `begin`.
        """
        locks = replacing.claim(self.path, empty=not resumed)
        try:
            before = read_state(self.path) if resumed else RunState(begun=False)
            self._silent = before.finished
            self.note(begun=before.begun is not False)
            text = settings.dump(config)
            written = self / "config.yaml"
            known = (
                [digest(written.read_text(encoding="utf-8"))]
                if resumed and written.is_file()
                else []
            )
            self.update(
                configs=[digest(text), *known], state="starting", reason=None, started=now(),
                finished=None, argv=argv,
                host=platform.node(), pid=os.getpid(), python=platform.python_version(),
                packages=package_versions(), commit=origin.commit(), device=origin.device(),
            )  # fmt: skip
            self._config = text
            if not resumed:
                self._write_config()
            try:
                with signals.noted(self._end):
                    yield self
            except BaseException as error:
                self._end(error)
                if not self.state.begun:
                    replacing.bring_back(self.path)
                raise
            self.begin()
            self.update(state="finished", finished=now())
        finally:
            for lock in locks:
                os.close(lock)

    def begin(self) -> None:
        """Puts on record that the run counts from now on, and deletes what it replaces after that.

        All actors are there, and the warm-up or the restoring is done.
        """
        if self._silent or self._config is not None or not self.state.begun:
            silent, self._silent = self._silent, False
            try:
                self.update()  # names the configuration before it is there
            except MachineError:
                self._silent = silent
                raise
            self._write_config()
            self.update(begun=True)
        replacing.forget(self.path)

    def _write_config(self) -> None:
        if self._config is not None:
            write_text(self / "config.yaml", self._config)
            self._config = None

    def _end(self, error: BaseException) -> None:
        with suppress(MachineError):  # a full disk must not hide the first cause
            self.update(finished=now(), **_verdict(error))

    def note(self, **changes: Any) -> None:
        """Sets what `run_state.json` says when it is next written."""
        self.state = self.state.changed(**changes)

    def update(self, **changes: Any) -> None:
        """Changes `run_state.json` in one step."""
        self.note(**changes, updated=now())
        if not self._silent:
            write_json(self / run_state.NAME, self.state.content())


def reserve(config: Config, overwrite: bool) -> RunFolder:
    """Checks that the run may write where its configuration says; changes nothing on disk."""
    root = Path(config.output)
    path = root / config.run_name
    if path.resolve().parent != root.resolve():
        raise ConfigError(f"{path} leads out of {root}; choose another --name")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose another --name")
    _check_writable(path)
    if _holds_something(path):
        if not overwrite and has_begun(path):
            raise ConfigError(
                f"{path} already holds a run; choose another --name or pass --overwrite"
            )
        if not (path / run_state.NAME).is_file():
            raise ConfigError(f"{path} is no run folder and stays as it is; choose another --name")
    return RunFolder(path)


def _holds_something(path: Path) -> bool:
    try:
        return any(path.iterdir())
    except FileNotFoundError:  # or another start has just set it aside
        return False


def has_begun(path: Path) -> bool:
    """Returns whether the folder holds more than the record of a run that failed before it had
    begun.
    """
    return read_state(path).begun is not False or replacing.aside(path).exists()


def _check_writable(path: Path) -> None:
    """Raises MachineError unless the nearest folder that is there takes a file."""
    for folder in (path.absolute(), *path.absolute().parents):
        try:
            with tempfile.TemporaryFile(dir=folder):
                return
        except OSError as error:
            if not folder.exists():  # or another start has just set it aside
                continue
            raise MachineError(
                f"cannot write to {folder}: {error.strerror}; set output=... to a writable folder"
            ) from error


def _verdict(error: BaseException) -> dict[str, Any]:
    if isinstance(error, KeyboardInterrupt):
        return {"state": "stopped", "reason": getattr(error, "name", signals.cause(error).name)}
    if not isinstance(error, UserError):
        return {
            "state": "failed",
            "reason": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    return {"state": "failed", "reason": str(error)} | (
        {"traceback": traceback.format_exc()} if error.__cause__ else {}
    )


def digest(config: str) -> str:
    """Returns the SHA-256 of the text of a `config.yaml`."""
    return hashlib.sha256(config.encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Returns the installed versions of what decides a result."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def now() -> str:
    """Returns the time in UTC, for people and for sorting."""
    return datetime.now(UTC).isoformat(timespec="seconds")
