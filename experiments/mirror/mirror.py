"""The copying of one run beside its work: newest checkpoint first, on a thread that rounds never
wait for.
"""

import platform
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from experiments.mirror import contents, copies
from experiments.mirror.copies import Complete, Copy
from experiments.mirror.owner import Lease, TakenError
from experiments.mirror.store import Store, StoreError
from experiments.runs.run_state import Mirrored, read_state
from rl_unlearn.errors import MachineError

PAUSES = (1.0, 60.0)
"""Seconds before a copy is tried again: at first, and at most."""
PATIENCE = 600.0
"""Seconds for which a finished run waits for a store that does not answer."""
CLOSING = 10.0
"""Seconds in which a run that ends early may complete the copy in hand."""


class _Ended(Exception):  # noqa: N818
    """Ends a copy in the middle: the run is over."""


class Mirror:
    """A run's place in a store, held by this session."""

    def __init__(self, store: Store, token: str, keep: int) -> None:
        """`token`: of this session; `keep`: how many copies of checkpoints stay."""
        self.store, self._token, self._keep = store, token, keep
        self.lease = Lease(store, token, lambda error: self._heard("lease", error))
        self.run = ""
        """What the copies are kept under, once `begin` has said so."""
        self._folder, self._record = Path(), Mirrored(run="")
        self._due: int | None = None
        self._copied: int | None = None
        self._newest = 0
        self._failing: dict[str, str] = {}
        """Who could not reach the store when it was last tried, and why."""
        self._lines: list[str] = []
        self._told: set[str] = set()
        self._state = threading.Condition()
        self._ended = self._finished = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    @property
    def counts(self) -> str | None:
        """The run whose copies count in the store; None if there is none."""
        return self.lease.mine.run

    def complete(self, warn: Callable[[str], None]) -> list[Copy]:
        """Returns the complete copies that count, the newest first."""
        return copies.complete(self.store, self.counts, warn) if self.counts else []

    def has(self, folder: Path) -> bool:
        """Returns whether a folder's run is in the store as a whole."""
        there, kept = read_state(folder).mirrored, self.complete(self._say)
        return bool(
            kept and there and kept[0].complete.finished and kept[0].session in there.sessions
        )

    def begin(self, folder: Path, before: Mirrored | None) -> Mirrored:
        """Begins to copy what is committed in a run folder.

        `before`: what its record said, None for a run that begins. Returns what it shall say.
        """
        self.run = before.run if before else self._token
        replaces = self.counts if self.counts != self.run else None
        self._folder = folder
        sessions = [*(before.sessions if before else []), self._token]
        self._record = Mirrored(run=self.run, sessions=sessions, replaces=replaces)
        self._thread.start()
        return self._record

    def committed(self, round: int) -> None:
        """Has the checkpoint of a round copied soon; one that still waits is left out."""
        with self._state:
            self._due, self._newest = round, round
            self._state.notify_all()

    def trouble(self) -> str | None:
        """Returns what a person should know, once."""
        with self._state:
            return self._lines.pop(0) if self._lines else None

    def finish(self, folder: Path, round: int, say: Callable[[str], None]) -> str:
        """Copies a finished run as a whole; returns where.

        Raises MachineError if the store does not take it for too long.
        """
        self._end(0)
        copy = self._copy(copies.of_finished(self._token), round, finished=True)
        failing, pause = None, PAUSES[0]
        while True:
            try:
                copies.put(self.store, copy, contents.of_run(folder), self._while_finishing)
                if self.counts != self.run:
                    self.lease.count(self.run)
                self._finished = True
                self._prune(copy, keep=1)
                return f"{self.store.place}/{copy.run}/{copy.name}"
            except StoreError as error:
                if failing is None:
                    failing = time.monotonic()
                    say(f"warning: {error}; tried again for {PATIENCE / 60:.0f} minutes")
                if time.monotonic() - failing > PATIENCE:
                    raise MachineError(
                        f"the run is finished and whole in {folder}, but not copied ({error}): the "
                        "same command with --resume auto copies it once the store answers"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    def close(self) -> str | None:
        """Ends the copying and lets others have the place; returns what is not copied, if so."""
        self._end(CLOSING)
        self.lease.release()
        copied = not self._newest or self._newest == self._copied
        if self._finished or copied or self.lease.taken_by is not None:
            return None
        why = next(iter(self._failing.values()), "the run ended before it was copied")
        held = f"round {self._copied:,}" if self._copied else "what it had before"
        return (
            f"the mirror is behind: {self._folder} has the checkpoint of round {self._newest:,}, "
            f"{self.store.place} {held} ({why}); --resume auto on this machine loses nothing"
        )

    def _copy(self, name: str, round: int, finished: bool = False) -> Copy:
        listed = Complete(round=round, finished=finished, host=platform.node(), files={})
        return Copy(self.run, name, listed)

    def _work(self) -> None:
        pause = PAUSES[0]
        while True:
            with self._state:
                self._state.wait_for(lambda: self._due is not None or self._ended)
                round, self._due = self._due, None
            if round is None:
                return
            try:
                self._copy_round(round)
                pause = PAUSES[0]
                self._heard("copying", None)
            except (_Ended, TakenError):
                return
            except FileNotFoundError:  # it was deleted, so a newer one is there or comes soon
                continue
            except (StoreError, OSError) as error:
                self._heard("copying", error)
                with self._state:
                    if self._due is None:
                        self._due = round
                    if self._state.wait_for(lambda: self._ended, pause):
                        return
                pause = min(2 * pause, PAUSES[1])
            except Exception as error:  # such as a damaged record: the next may do, and a run never
                # ends because its copy cannot be made
                self._say(f"{self.store.place}: round {round:,} is not copied: {error}")

    def _copy_round(self, round: int) -> None:
        copy = self._copy(copies.of_round(round, self._token), round)
        with ExitStack() as opened:
            files = contents.of_checkpoint(self._folder, round, opened)
            copies.put(self.store, copy, files, self._while_at_work)
            if self.counts != self.run:
                self.lease.count(self.run)
        with self._state:
            self._copied = round
            self._state.notify_all()
        self._prune(copy, self._keep)

    def _prune(self, copy: Copy, keep: int) -> None:
        """Deletes older copies, now that this one is complete."""
        try:
            copies.prune(self.store, copy, keep, self._record, self._say)
        except StoreError as error:  # such as no right to delete: the copy is there all the same
            self._once(f"old copies stay: {error}")

    def _while_at_work(self, last: bool) -> None:
        with self._state:
            if self._ended:
                raise _Ended
        self._while_finishing(last)

    def _while_finishing(self, last: bool) -> None:
        (self.lease.look if last else self.lease.check)()

    def _end(self, seconds: float) -> None:
        """Ends the thread; what is in hand or waits has so long, if the store answers."""
        if not self._thread.is_alive():
            return
        end = time.monotonic() + seconds
        with self._state:
            self._state.wait_for(self._idle, seconds)
            self._ended = True
            self._state.notify_all()
        self._thread.join(max(1.0, end - time.monotonic()))

    def _idle(self) -> bool:
        return not self._newest or self._newest == self._copied or bool(self._failing)

    def _heard(self, who: str, error: Exception | None) -> None:
        with self._state:
            failed = bool(self._failing)
            if error is None:
                self._failing.pop(who, None)
            else:
                self._failing[who] = str(error)
            self._state.notify_all()
        if error is not None and not failed:
            self._say(f"the mirror is behind, and the run goes on: {error}")
        elif failed and not self._failing:
            self._say(f"the mirror is no longer behind: {self.store.place}")

    def _say(self, line: str) -> None:
        with self._state:
            self._lines.append(line)

    def _once(self, line: str) -> None:
        with self._state:
            if line not in self._told:
                self._told.add(line)
                self._lines.append(line)
