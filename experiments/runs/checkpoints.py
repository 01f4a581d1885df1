"""The checkpoints of a run on disk: which are kept, which is the newest, which are put aside.

checkpoints/warm-up-<sha256>.safetensors    the warm-up's trajectories, written once
checkpoints/round-000012/                   see `checkpoint_files`
checkpoints/quarantine-round-000008/        one that is damaged or another run's: named, never
                                            loaded, never deleted
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from experiments.files import make_folder, write_bytes
from experiments.runs import checkpoint_files, ledger
from experiments.runs.manifest import MANIFEST, sha256
from learner.roles import Resumption
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files.durable import sync_folder
from rl_unlearn.files.json_file import read_object
from rl_unlearn.messages import Snapshot

_NAME = re.compile(r"round-(\d{6,})")


class Checkpoints:
    """The checkpoints of one run: `learner.roles.CheckpointStore` for the loop, and what `resume`
    reads."""

    def __init__(
        self,
        run: Path,
        every: int,
        keep: int,
        identity: str | None = None,
        committed: Callable[[int], None] | None = None,
    ) -> None:
        """`run`: the run folder. A checkpoint every so many rounds (0: none), the newest `keep` are
        kept.

        `identity`: digest of the configuration that the checkpoints must belong to, see
        `resuming.identity`; None: any. `committed` is told the round of each new one.
        """
        self._run, self._root, self._every, self._keep = run, run / "checkpoints", every, keep
        self._identity, self._committed = identity, committed
        self._warm_up = ""

    def due(self, round: int) -> bool:
        """Returns whether a checkpoint shall be made after this round."""
        return self._every > 0 and round % self._every == 0

    def keep_warm_up(self, warm_up: Snapshot) -> None:
        """Writes the trajectories that every checkpoint needs."""
        if self._every:
            make_folder(self._root, "set output=... to a writable folder")
            content = checkpoint_files.packed(warm_up)
            self._warm_up = f"warm-up-{sha256(content)}.safetensors"
            write_bytes(self._root / self._warm_up, content)

    def keep_refused(self, round: int, trajectories: Snapshot) -> str:
        """Writes trajectories that were refused beside the checkpoints."""
        folder = self._root.parent / "refused"
        make_folder(folder, "set output=... to a writable folder")
        path = folder / f"round-{round:06d}.safetensors"
        write_bytes(path, checkpoint_files.packed(trajectories))
        return str(path)

    def commit(self, round: int, parts: dict[str, Snapshot]) -> None:
        """Writes all parts as one checkpoint, then deletes the oldest ones.

        The parts are written aside, the manifest last, and the folder is renamed into place. Raises
        MachineError if the disk does not take it; the checkpoints made before stay as they are.
        """
        final = self._root / f"round-{round:06d}"
        aside = self._root / f".{final.name}.{os.getpid()}.tmp"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            checkpoint_files.write(aside, round, parts, self._identity, self._warm_up)
            if final.exists():  # made by a run that was resumed from an earlier checkpoint
                shutil.rmtree(final)
            aside.rename(final)
            sync_folder(self._root)
        except (OSError, MachineError) as error:
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            raise MachineError(
                f"cannot write {final}: {reason}; free space and resume the run"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if self._committed is not None:
            self._committed(round)
        for old in self._rounds()[: -self._keep]:
            shutil.rmtree(self._root / f"round-{old:06d}", ignore_errors=True)

    def newest(self, warn: Callable[[str], None]) -> tuple[int, Resumption] | None:
        """Returns the newest valid checkpoint and its round, or None if the run had made none yet.

        One that is damaged or another run's is named through `warn` and put aside, and the one
        before is taken. Raises DataError if there are checkpoints but none is valid, or if another
        version of this program made them.
        """
        rounds = self._rounds()
        made = ledger.weights(self._run)
        for round in reversed(rounds):
            folder = self._root / f"round-{round:06d}"
            try:
                manifest = read_object(folder / MANIFEST)
                checkpoint_files.check_format(manifest, folder)
                self._warm_up, checkpoint = checkpoint_files.read(folder, round, manifest)
                self._check_own(manifest, checkpoint, made)
                return round, checkpoint
            except checkpoint_files.FormatError:
                raise
            except (
                OSError,
                ValueError,
                SafetensorError,
                KeyError,
                TypeError,
                AttributeError,
                DataError,
            ) as error:
                reason = str(error) or type(error).__name__
            aside = _unused(self._root / f"quarantine-{folder.name}")
            folder.rename(aside)
            sync_folder(self._root)
            warn(
                f"checkpoint {folder} is damaged ({reason}); it is kept as {aside.name}, and the "
                "one before is taken"
            )
        if rounds:
            raise DataError(
                f"no checkpoint in {self._root} is whole: start the run anew with --overwrite"
            )
        return None

    def _check_own(
        self, manifest: dict[str, Any], checkpoint: Resumption, made: dict[int, str]
    ) -> None:
        """Checks that a whole checkpoint is one of this run.

        It must be of its configuration, and have the weights of its ledger.
        """
        if self._identity is not None and manifest["configuration"] != self._identity:
            raise ValueError("it is another run's: made with another configuration")
        updates = checkpoint.parts["loop"].values.get("updates")
        if (
            manifest["updates"] != updates
            or checkpoint.parts["learner"].values.get("version") != updates
        ):
            raise ValueError("its parts are of different updates")
        expected = made.get(updates) if updates else None
        if expected and digest(checkpoint.parts["learner"].part("adapter")) != expected:
            raise ValueError(
                f"it is another run's: the ledger knows other weights of update {updates:,}"
            )

    def _rounds(self) -> list[int]:
        names = [path.name for path in self._root.iterdir()] if self._root.is_dir() else []
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)


def _unused(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
