"""The mirror of a command: opened before anything heavy, closed however the command ends."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from experiments.console import say
from experiments.mirror.mirror import Mirror
from experiments.mirror.store import Store, StoreError
from rl_unlearn.config import Config
from rl_unlearn.files.places import shown

REMEDY = (
    "make the bucket or container, check the address (AWS_ENDPOINT_URL names an S3 of one's own), "
    "and give this machine credentials that may read, "
    "write, list and delete there, in its environment, profile or role"
)


def open_store(address: str, name: str) -> Store:
    """Returns a run's place in a store; StoreError says what to do if there is none."""
    try:
        return Store(address, name)
    except StoreError as error:
        raise StoreError(f"{error}: {REMEDY}") from error


def try_store(address: str) -> str:
    """Returns an address without anything secret once an object was written, read and deleted
    there; StoreError says what is wrong.
    """
    store, name = open_store(address, f".doctor-{uuid.uuid4().hex}"), "probe"
    try:
        store.write(name, [name.encode()])
        if store.read(name, 64) != name.encode() or name not in store.names():
            raise StoreError(f"{store.place} does not give back what was written there")
        store.delete_folder("")
    except StoreError as error:
        raise StoreError(f"{error}: {REMEDY}") from error
    return shown(address)


@contextmanager
def held(config: Config, console: Console) -> Iterator[Mirror | None]:
    """Holds the place of the run in its store for as long as the block lasts.

    Yields None where the configuration names no store. Raises ConfigError if another machine writes
    there, StoreError if it cannot be written.
    """
    if config.mirror is None:
        yield None
        return
    store = open_store(config.mirror, config.run_name)
    mirror = Mirror(store, uuid.uuid4().hex[:8], max(1, config.loop.checkpoints))
    try:
        mirror.lease.claim(lambda line: say(console, line))
    except StoreError as error:
        raise StoreError(f"{error}: {REMEDY}") from error
    try:
        yield mirror
    finally:
        behind = mirror.close()
        while (line := mirror.trouble()) is not None:
            say(console, f"warning: {line}")
        if behind is not None:
            say(console, f"warning: {behind}")
