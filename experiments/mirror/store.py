"""One run's place in a store, as pyarrow sees it: S3, Google Cloud, Azure or a mounted folder."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from experiments.runs.tracking import redacted
from rl_unlearn.errors import MachineError
from rl_unlearn.files.places import shown

CHUNK = 2**22
"""Bytes that are read or written at once."""
_SECONDS = 10
"""How long S3 may take to be reached, and a third of how long it may be silent."""
_ABSENT = ("read", "deleted")
"""What may find that there is nothing."""


class StoreError(MachineError):
    """A store that does not answer, or refuses; perhaps only for a while."""


@dataclass(frozen=True)
class Written:
    """What went into an object."""

    bytes: int
    sha256: str


class Store:
    """The objects below one address; names in it have `/` between their parts."""

    def __init__(self, address: str, name: str) -> None:
        """`address`: as `check_store` wants it; `name`: of the run, a folder there."""
        base, mark, asked = address.partition("?")
        self.place = f"{shown(base).rstrip('/')}/{name}"
        with self._told("opened"):
            self._files, root = _opened(f"{base.rstrip('/')}{mark}{asked}")
        self._local = self._files.type_name == "local"
        if self._local and not Path(root).is_dir():
            raise StoreError(f"{root} is no folder that is there: make it, or mount what it was")
        self._root = f"{root.rstrip('/')}/{name}"

    def write(self, name: str, chunks: Iterable[bytes]) -> Written:
        """Puts an object there, in place of what has the name.

        What breaks in the middle may leave a part of it: only what is listed in an object that was
        written afterwards counts.
        """
        size, digest = 0, hashlib.sha256()
        final = aside = self._at(name)
        with self._told("written"):
            if (
                self._local
            ):  # a store's object is there as a whole or not at all; so shall a file be
                folder, _, last = final.rpartition("/")
                self._files.create_dir(folder, recursive=True)
                aside = f"{folder}/.{last}.tmp"
            with self._files.open_output_stream(aside, compression=None) as stream:
                for chunk in chunks:
                    stream.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            if aside != final:
                self._files.move(aside, final)
        return Written(size, digest.hexdigest())

    def read(self, name: str, limit: int) -> bytes | None:
        """Returns an object's content, None if it is not there; no more than `limit` bytes and
        one."""
        content = b""
        try:
            for chunk in self.chunks(name, limit + 1):
                content += chunk
        except FileNotFoundError:
            return None
        return content

    def chunks(self, name: str, most: int) -> Iterator[bytes]:
        """Yields an object's content, but no more than `most` bytes; FileNotFoundError if it is not
        there.
        """
        with (
            self._told("read"),
            self._files.open_input_stream(self._at(name), compression=None) as stream,
        ):
            while most > 0 and (chunk := stream.read(min(CHUNK, most))):
                most -= len(chunk)
                yield chunk

    def size(self, name: str) -> int | None:
        """Returns how many bytes an object has, None if it is not there."""
        size: int | None = self._info(name).size
        return size

    def changed(self, name: str) -> datetime | None:
        """Returns when an object was written by the store's own clock, None if it does not say."""
        when = self._info(name).mtime
        return when if isinstance(when, datetime) else None

    def names(self, folder: str = "") -> list[str]:
        """Returns what is right below a folder, none if it is not there."""
        from pyarrow.fs import FileSelector

        with self._told("listed"):
            found = self._files.get_file_info(FileSelector(self._at(folder), allow_not_found=True))
        return sorted(info.base_name for info in found)

    def delete(self, name: str) -> None:
        """Deletes an object, if it is there."""
        with self._told("deleted"):
            if self.size(name) is not None:
                self._files.delete_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        """Deletes all that has this name before it."""
        with self._told("deleted"), suppress(FileNotFoundError):
            self._files.delete_dir(self._at(name))

    def _info(self, name: str) -> Any:
        with self._told("looked at"):
            (info,) = self._files.get_file_info([self._at(name)])
        return info

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Makes one line of whatever pyarrow raises; what is read and not there stays an error of
        its own.
        """
        try:
            yield
        except StoreError:
            raise
        except (OSError, ValueError, NotImplementedError) as error:
            if isinstance(error, FileNotFoundError) and done in _ABSENT:
                raise
            raise StoreError(
                f"{self.place} cannot be {done}: {redacted(str(error) or type(error).__name__)}"
            ) from error


def _opened(address: str) -> tuple[Any, str]:
    """Returns pyarrow's file system and the path in it that an address means."""
    from pyarrow import fs

    parts = urlsplit(address)
    if parts.scheme != "s3":
        files, path = fs.FileSystem.from_uri(address)
        return files, path
    options = dict(parse_qsl(parts.query))
    if "endpoint_override" not in options:
        options |= _own_endpoint()
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = fs.resolve_s3_region(parts.netloc)
    # Arrow's own patience is 1 and 3 seconds, which a busy network uses up.
    files = fs.S3FileSystem(connect_timeout=_SECONDS, request_timeout=3 * _SECONDS, **options)
    return files, f"{parts.netloc}{parts.path}"


def _own_endpoint() -> dict[str, str]:
    """Returns the endpoint that AWS's own variables name, which pyarrow does not read."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not named:
        return {}
    scheme, _, host = named.rstrip("/").rpartition("://")
    return {"endpoint_override": host, "scheme": scheme or "https"}
