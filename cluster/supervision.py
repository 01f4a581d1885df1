"""Resumes a run after a loss: whatever died or hangs, all actors are made anew and get what the
newest checkpoint holds.
"""

import time
from collections import Counter
from collections.abc import Callable

from learner import events
from learner.events import Emit
from learner.loop import Result
from learner.roles import CheckpointStore, Resumption
from rl_unlearn.errors import LostError, NonFiniteError, NoRoomError, TrainingError

Attempt = Callable[[Resumption | None], Result]
"""One generation of actors from a checkpoint, or from the start, to the end of the run. None of
them outlives it."""
_ROLLBACKS = 1
_LONGEST_PAUSE = 60.0


def supervised(
    attempt: Attempt,
    restarts: int,
    emit: Emit,
    store: CheckpointStore | None,
    start: Resumption | None,
) -> Result:
    """The result of the first attempt that comes to its end.

    After a LostError the next one begins, up to ``restarts`` times with no new checkpoint between
    them, each after twice the pause; after a NonFiniteError once in all, for it may not happen
    again. Any other error is raised, and after the last try TrainingError with its cause.
    """
    tries: Counter[type] = Counter()
    reached = -1
    while True:
        try:
            return attempt(start)
        except (LostError, NonFiniteError, NoRoomError) as error:
            # A cluster that has just lost a node may lack room for a while.
            if isinstance(error, NoRoomError) and not tries[LostError]:
                raise
            cause = error
        kind, allowed = (
            (NonFiniteError, _ROLLBACKS)
            if isinstance(cause, NonFiniteError)
            else (LostError, restarts)
        )
        checkpoint = None
        if store is not None:
            checkpoint = store.newest(lambda line: emit(events.Warning(message=line)))
        round, start = checkpoint if checkpoint is not None else (0, start)
        if round > reached:
            reached = round
            tries[LostError] = 0
        tries[kind] += 1
        if tries[kind] > allowed:
            again = f"given up after {allowed} restarts from round {round}: " if allowed else ""
            raise TrainingError(f"{again}{cause}") from cause
        pause = min(_LONGEST_PAUSE, 2.0 ** (tries[kind] - 1))
        number = f"restart {tries[kind]} of {allowed}"
        emit(
            events.Restart(
                round=round,
                newest_round=start.newest_round if start is not None else 0,
                cause=str(cause),
                message=f"{cause}; goes on from round {round} in {pause:g} s ({number})",
            )
        )
        time.sleep(pause)
