"""A folder with an adapter and its card, put on the Hugging Face hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2  # the library that huggingface_hub speaks by
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from experiments.runs.tracking import redacted
from rl_unlearn.errors import ConfigError, MachineError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_UNKNOWN = "the hub knows no token of yours: set HF_TOKEN, or run `hf auth login`"
_EMPTY = {".gitattributes"}
"""What the hub itself puts into a new repository."""


def check_name(name: str) -> None:
    """Raises ConfigError for what is no `owner/name`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--push {name!r}: write owner/name, such as somebody/sd15-without-cats")


def check_free(name: str) -> None:
    """Raises ConfigError if the repository has something already, or nobody is logged in.

    MachineError if the hub cannot be reached.
    """
    with _told(name):
        api = HfApi()
        api.whoami()
        if api.repo_exists(name) and set(api.list_repo_files(name)) - _EMPTY:
            raise ConfigError(
                f"--push {name}: that repository holds something already; choose another name"
            )


def push(folder: Path, name: str, public: bool, message: str) -> str:
    """Puts the folder's files into a repository, private unless `public`; returns its address.

    The token is the hub's own: `HF_TOKEN`, or what `hf auth login` left. Files are uploaded as
    one commit: either all are there or none. Raises as :func:`check_free` does.
    """
    with _told(name):
        api = HfApi()
        place = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
        address: str = place.url
        return address


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Makes one line of what the hub raises."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise MachineError(f"--push {name}: HF_HUB_OFFLINE is set; unset it to push") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"--push {name}: {_UNKNOWN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ConfigError(f"--push {name}: {_UNKNOWN}") from error
        if status == 403:
            raise ConfigError(
                f"--push {name}: your token may not write there: give it write access, or choose "
                "another owner"
            ) from error
        raise MachineError(f"--push {name}: the hub does not take it: {_reason(error)}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise MachineError(f"--push {name}: the hub is not reached: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return redacted(lines[0] if lines else type(error).__name__)
