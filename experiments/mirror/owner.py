"""Who writes: one session at a time holds a run's place in a store, and says so every few seconds.

OWNER.json    who holds it, and whose copies count

No store that pyarrow knows lets an object be written on a condition, so this is a lease: whoever
wants it waits until the one before has been silent, writes its name, and looks whether it is still
there.
"""

import platform
import threading
import time
from collections.abc import Callable

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from experiments.files import to_json
from experiments.mirror.store import Store, StoreError
from rl_unlearn.errors import ConfigError, DataError, TrainingError
from rl_unlearn.files.json_file import parse_object
from rl_unlearn.files.versioned import Versioned, validated

OWNER = "OWNER.json"
RENEWED = 20.0
"""Seconds between two signs of life."""
SILENT = 90.0
"""Seconds without one after which an owner is taken for dead."""
SETTLED = 2.0
"""Seconds after which an owner's name must still be there."""
LIMIT = 2**16
ID = r"[0-9a-f]{8}"
"""What names of runs and sessions in a store look like."""


class TakenError(TrainingError):
    """Another machine writes this run's copies now."""


class Owner(Versioned):
    """The content of `OWNER.json`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    token: StrictStr = Field(pattern=f"^{ID}$")
    """The session that writes."""
    run: StrictStr | None = Field(None, pattern=f"^{ID}$")
    """The run whose copies count; None: none was completed yet."""
    host: StrictStr = ""
    beat: StrictInt = 0
    """Grows with each sign of life."""
    released: StrictBool = False


def read(store: Store) -> Owner | None:
    """Returns who holds the place, None if nobody ever did; DataError if the record is damaged."""
    content = store.read(OWNER, LIMIT)
    if content is None:
        return None
    source, remedy = f"{store.place}/{OWNER}", "delete it if no run writes there"
    return validated(source, parse_object(content[:LIMIT], source, remedy), Owner, remedy)


class Lease:
    """This session's hold on a run's place."""

    def __init__(
        self, store: Store, token: str, heard: Callable[[StoreError | None], None]
    ) -> None:
        """`heard` is told of each sign of life: None, or why it could not be given."""
        self._store, self._heard = store, heard
        self.mine = Owner(token=token, host=platform.node())
        self.taken_by: str | None = None
        """The host that has it now, once this session has lost it."""
        self._held = False
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="mirror-lease", daemon=True)

    def claim(self, say: Callable[[str], None]) -> None:
        """Takes the place; waits if it was in use moments ago.

        Raises ConfigError if somebody else writes there, StoreError if it cannot be written.
        """
        before = self._free(say)
        self.mine = self.mine.model_copy(update={"run": before.run if before else None})
        self._write()
        time.sleep(SETTLED)
        now = read(self._store)
        if now is None or now.token != self.mine.token:
            raise ConfigError(_in_use(self._store, now))
        self._held = True
        self._thread.start()

    def look(self) -> None:
        """Asks the store, and raises TakenError if another session has the place by now."""
        if self.taken_by is None and self._held:
            now = read(self._store)
            if now is not None and now.token != self.mine.token:
                self.taken_by = now.host or "another machine"
        self.check()

    def check(self) -> None:
        """Raises TakenError if another session was seen to have the place."""
        if self.taken_by is not None:
            raise TakenError(
                f"{self._store.place} was taken over by {self.taken_by}: the run goes on there, "
                "and this one ends"
            )

    def count(self, run: str) -> None:
        """Puts on record that the copies of this run count from now on."""
        with self._writing:
            self.mine = self.mine.model_copy(update={"run": run})
            self.look()
            self._write()

    def release(self) -> None:
        """Lets others have it at once; what cannot be written now is free when it was silent."""
        if self._held:
            self._ended.set()
            self._held = False
            try:
                with self._writing:
                    now = read(self._store)
                    if now is not None and now.token == self.mine.token:
                        self.mine = self.mine.model_copy(update={"released": True})
                        self._write()
            except (StoreError, DataError):
                pass

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                with self._writing:
                    if self._ended.is_set():
                        return
                    self.look()
                    self._write()
                self._heard(None)
            except TakenError:
                return
            except StoreError as error:
                self._heard(error)
            except DataError as error:
                self._heard(StoreError(str(error)))

    def _write(self) -> None:
        self.mine = self.mine.model_copy(update={"beat": self.mine.beat + 1})
        self._store.write(OWNER, [to_json(self.mine.content()).encode()])

    def _free(self, say: Callable[[str], None]) -> Owner | None:
        """Returns who had the place, once it is free."""
        probe = f".probe-{self.mine.token}"
        self._store.write(probe, [b"may this machine write here?"])
        now = self._store.changed(probe)
        self._store.delete(probe)
        before = read(self._store)
        if before is None or before.released:
            return before
        since = self._store.changed(OWNER)
        # Both times are the store's own: this machine's clock may be wrong.
        silent = (now - since).total_seconds() if now and since else 0.0
        wait = SILENT - max(0.0, silent)
        if wait > 0:
            say(
                f"{self._store.place} was in use by {before.host or 'another machine'} "
                f"{max(0.0, silent):.0f} seconds ago: waiting up to {wait:.0f} seconds for a sign "
                "of life"
            )
        end = time.monotonic() + wait
        while time.monotonic() < end:
            time.sleep(min(1.0, RENEWED / 4))
            seen = read(self._store)
            if seen is None or seen.released:
                return seen
            if (seen.token, seen.beat) != (before.token, before.beat):
                raise ConfigError(_in_use(self._store, seen))
        return before


def _in_use(store: Store, owner: Owner | None) -> str:
    host = (owner.host if owner else "") or "another machine"
    return (
        f"{store.place} is being written by {host}: wait for it, end it, or choose another --name"
    )
