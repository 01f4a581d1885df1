"""Copies of a run in a store: what each holds is listed in an object that is written last.

RUN/round-000012-SESSION/           records and checkpoint of round 12, as that session left them
RUN/finished-SESSION/               the whole run folder
    COMPLETE.json                   names, sizes and SHA-256 of all files; without it it is no copy
RUN/warm-up-<sha256>.safetensors    the warm-up's trajectories, which all copies share

RUN is drawn anew when a run begins, SESSION when a process goes on with it: what two sessions write
never has the same name, so no copy is ever a mixture of both.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from experiments.files import to_json
from experiments.mirror.owner import ID
from experiments.mirror.store import CHUNK, Store
from experiments.runs.run_state import Mirrored
from rl_unlearn.errors import DataError, MachineError
from rl_unlearn.files.durable import sync_folder
from rl_unlearn.files.json_file import MAX_BYTES, parse_object
from rl_unlearn.files.versioned import Versioned, validated

COMPLETE = "COMPLETE.json"
_COPY = re.compile(rf"(?:round-\d{{6,}}|finished)-({ID})")
_WARM_UP = re.compile(r"warm-up-([0-9a-f]{64})\.safetensors")
_WARM_UPS = "checkpoints/"

Content = bytes | BinaryIO | Path
"""What goes into an object: read already, opened already, or a file that nothing changes."""


class Listed(BaseModel):
    """One file of a copy."""

    model_config = ConfigDict(extra="allow", frozen=True)
    bytes: StrictInt = Field(ge=0)
    sha256: StrictStr = Field(pattern=r"^[0-9a-f]{64}$")


class Complete(Versioned):
    """The content of `COMPLETE.json`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    round: StrictInt = Field(ge=0)
    finished: StrictBool
    host: StrictStr = ""
    files: dict[StrictStr, Listed]
    """By their names in the run folder."""


@dataclass(frozen=True)
class Copy:
    """A copy that is complete."""

    run: str
    name: str
    complete: Complete

    @property
    def session(self) -> str:
        """Which session made it."""
        return self.name[-8:]

    @property
    def age(self) -> tuple[int, bool]:
        """Grows with what the copy holds."""
        return self.complete.round, self.complete.finished

    @property
    def title(self) -> str:
        """What a person calls it."""
        return "the finished run" if self.complete.finished else f"round {self.complete.round:,}"


def of_round(round: int, session: str) -> str:
    """Returns the name of a checkpoint's copy."""
    return f"round-{round:06d}-{session}"


def of_finished(session: str) -> str:
    """Returns the name of a finished run's copy."""
    return f"finished-{session}"


def complete(store: Store, run: str, warn: Callable[[str], None]) -> list[Copy]:
    """Returns the complete copies of a run, the newest first; one whose list is damaged is
    named."""
    copies = []
    for name in filter(_COPY.fullmatch, store.names(run)):
        content = store.read(f"{run}/{name}/{COMPLETE}", MAX_BYTES)
        if content is None:
            continue
        source, remedy = f"{store.place}/{run}/{name}/{COMPLETE}", "that copy is left out"
        try:
            listed = validated(source, parse_object(content, source, remedy), Complete, remedy)
        except DataError as error:
            warn(str(error))
            continue
        copies.append(Copy(run, name, listed))
    return sorted(copies, key=lambda copy: copy.age, reverse=True)


def put(
    store: Store,
    copy: Copy,
    contents: Mapping[str, Content],
    may_go_on: Callable[[bool], None],
) -> None:
    """Makes a copy: all files, and what lists them last.

    `may_go_on` is called between the parts, and with True before the list is written; it raises
    what ends the copying.
    """
    store.delete(f"{copy.run}/{copy.name}/{COMPLETE}")  # of the same round before a restart
    listed = {}
    for file, content in contents.items():
        place, digest = _place(copy, file), _shared(file)
        size = _size(content)
        if digest is not None and store.size(place) == size:
            listed[file] = Listed(bytes=size, sha256=digest)
            continue
        written = store.write(place, _chunks(content, may_go_on))
        listed[file] = Listed(bytes=written.bytes, sha256=written.sha256)
    may_go_on(True)
    made = copy.complete.model_copy(update={"files": listed})
    store.write(f"{copy.run}/{copy.name}/{COMPLETE}", [to_json(made.content(), 1).encode()])


def get(store: Store, copy: Copy, folder: Path) -> None:
    """Puts the files of a copy into a folder that is there and empty.

    Raises DataError if one of them is not what is listed, StoreError if the store does not answer,
    MachineError if the disk does not take them.
    """
    for name, listed in copy.complete.files.items():
        target = folder / checked(name, copy)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                _receive(store, copy, name, listed, file)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError as error:
            raise DataError(f"{copy.title}: {name} is not there") from error
        except OSError as error:
            raise MachineError(
                f"cannot write {target}: {error.strerror or error}; free space or choose another "
                "place"
            ) from error
    for below in {path.parent for path in folder.rglob("*")}:
        sync_folder(below)


def checked(name: str, copy: Copy) -> str:
    """Returns the name of a file in a run folder; DataError if it would lead out of it."""
    parts = name.split("/")
    if (
        not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") or part.startswith(".") for part in parts)
        or len(name) > 512
    ):
        raise DataError(f"{copy.title}: its list names {name[:80]!r}, which no run folder has")
    return name


def prune(
    store: Store, newest: Copy, keep: int, record: Mirrored, warn: Callable[[str], None]
) -> None:
    """Deletes what is older than the newest `keep` copies, now that `newest` is complete; and what
    killed sessions have left half copied.

    Only sessions that `record` knows, and the run that it replaces, are touched: one that was taken
    over, and does not know it yet, must not delete what comes after it.
    """
    copies = complete(store, newest.run, warn)
    # What another session has made is older than all that this one has, whatever round it says.
    copies.sort(key=lambda copy: (copy.session == newest.session, *copy.age), reverse=True)
    kept = {copy.name: copy for copy in copies[:keep]} | {newest.name: newest}
    for name in store.names(newest.run):
        made = _COPY.fullmatch(name)
        if made is not None and made[1] in record.sessions and name not in kept:
            store.delete(f"{newest.run}/{name}/{COMPLETE}")  # first: what is left is no copy
            store.delete_folder(f"{newest.run}/{name}")
    if record.replaces is not None and re.fullmatch(ID, record.replaces):
        store.delete_folder(record.replaces)


def _receive(store: Store, copy: Copy, name: str, listed: Listed, file: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    for chunk in store.chunks(_place(copy, name), listed.bytes + 1):
        size += len(chunk)
        digest.update(chunk)
        file.write(chunk)
    if size != listed.bytes:
        raise DataError(f"{copy.title}: {name} has not the {listed.bytes:,} bytes that are listed")
    if digest.hexdigest() != listed.sha256:
        raise DataError(f"{copy.title}: {name} is not what was copied")


def _place(copy: Copy, file: str) -> str:
    shared = _shared(file) is not None
    return f"{copy.run}/{file.removeprefix(_WARM_UPS) if shared else f'{copy.name}/{file}'}"


def _shared(file: str) -> str | None:
    """Returns the SHA-256 of a file that copies share, None for all others."""
    match = _WARM_UP.fullmatch(file.removeprefix(_WARM_UPS)) if file.startswith(_WARM_UPS) else None
    return match[1] if match else None


def _size(content: Content) -> int:
    if isinstance(content, bytes):
        return len(content)
    return (content.stat() if isinstance(content, Path) else os.fstat(content.fileno())).st_size


def _chunks(content: Content, may_go_on: Callable[[bool], None]) -> Iterable[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield from _chunks(file, may_go_on)
    elif isinstance(content, bytes):
        may_go_on(False)
        yield content
    else:
        content.seek(0)
        while chunk := content.read(CHUNK):
            may_go_on(False)
            yield chunk
