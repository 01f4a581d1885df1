"""Where things are read and written: folders of this machine, or mounted into it; and stores that
runs are copied to.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from rl_unlearn.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_USER = re.compile(r"//[^/@\s]*@")
STORES = {
    "s3": {"region", "endpoint_override", "scheme"},
    "gs": {"endpoint_override", "scheme"},
    "gcs": {"endpoint_override", "scheme"},
    "abfs": {"blob_storage_authority", "dfs_storage_authority", "enable_tls"},
    "abfss": {"blob_storage_authority", "dfs_storage_authority", "enable_tls"},
    "file": set(),
}
"""Kinds of stores, and what may stand behind the `?` of their addresses: never a secret."""


def is_address(path: str) -> bool:
    """Returns whether this is an address such as s3://, not the name of a folder."""
    return _ADDRESS.match(path) is not None


def shown(address: str) -> str:
    """Returns an address without user and password, and without what stands behind its `?`."""
    return _USER.sub("//***@", address).partition("?")[0]


def check_local(given: Iterable[object], what: str) -> None:
    """Raises ConfigError if one of these paths is an address such as s3://: it would be taken for a
    folder called `s3:`.
    """
    for path in given:
        if isinstance(path, str) and is_address(path):
            fetched = urlsplit(path).scheme in STORES
            raise ConfigError(
                f"{what}{shown(path)!r}: only local or mounted folders work: mount it, or copy it "
                "here" + (" (`rl-unlearn fetch` copies a run)" if fetched else "")
            )


def check_store(address: str, what: str) -> None:
    """Raises ConfigError unless runs can be copied to this address.

    Nothing of it that may be a secret is in the error.
    """
    try:
        parts = urlsplit(address)
        user, password = parts.username, parts.password
        asked = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError as error:
        raise ConfigError(f"{what}: {shown(address)!r} is no address: {error}") from error
    if parts.scheme not in STORES:
        raise ConfigError(
            f"{what}: {shown(address)!r} is no store: give a folder, or one of "
            f"{', '.join(f'{scheme}://' for scheme in STORES)}"
        )
    azure = parts.scheme in ("abfs", "abfss")
    if password is not None or (user is not None and not azure):
        raise ConfigError(
            f"{what}: {shown(address)!r} has a user or password in it: take it out, credentials "
            "come from the environment, a profile or the machine's role"
        )
    if unknown := sorted(asked - STORES[parts.scheme]):
        raise ConfigError(
            f"{what}: {shown(address)!r} has {unknown[0]!r} behind its `?`, where only "
            f"{', '.join(sorted(STORES[parts.scheme])) or 'nothing'} may stand; credentials come "
            "from the environment"
        )
    places = parts.path.removeprefix("/").removesuffix("/").split("/")
    if not address.isprintable() or " " in address or "\\" in address or parts.fragment:
        reason = "has a character that no address of a store has"
    elif "%" in parts.path or any(place in (".", "..") for place in places):
        reason = "has '%', '.' or '..' in its path"
    elif "" in places and len(places) > 1:
        reason = "has an empty name in its path"
    elif parts.scheme == "file" and (parts.netloc or parts.path.strip("/") == ""):
        reason = "must be file:///FOLDER, with three slashes"
    elif parts.scheme != "file" and not parts.netloc.rpartition("@")[2]:
        reason = "names no bucket"
    elif azure and not (user or places[0]):
        reason = "names no container: abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
    else:
        return
    raise ConfigError(f"{what}: {shown(address)!r} {reason}")
