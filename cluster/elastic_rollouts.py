"""The rollout actors at hand: those that the run began with, and guests, for as long as a node has
room for them.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, overload

from rl_unlearn.errors import TrainingError

_HIRES = 10
"""Times that each guest's place is filled again after an actor was lost."""


class Crew(Sequence[Any]):
    """Handles, ready to be called; how many there are may change between two looks at it.

    A guest's actor waits, outside of the run's placement group, until a node has room for it. It
    joins once it has shown that it holds the same model, and leaves with its node: another one is
    then waited for. What it had in hand must be asked of others.
    """

    def __init__(self, steady: list[Any], hire: Callable[[], Any], guests: int):
        """``steady``: at least one actor that is always there; ``hire`` starts a guest's actor."""
        self._steady, self._hire = steady, hire
        self._guests: list[Any] = []
        self._waiting: dict[Any, Any] = {}
        self._hires = guests * _HIRES
        self._expected = steady[0].base_digest.remote()
        for _ in range(guests):
            self._invite()

    def __len__(self) -> int:
        self._greet()
        return len(self._steady) + len(self._guests)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return [*self._steady, *self._guests][index]

    def left(self, actor: Any, error: Exception) -> bool:
        """Whether the error of a call says that the actor, a guest, has left; it is then no longer
        at hand.
        """
        if any(actor is one for one in self._steady) or not _lost(actor, error):
            return False
        if any(actor is guest for guest in self._guests):  # else an earlier call has told
            import ray

            self._guests = [guest for guest in self._guests if guest is not actor]
            ray.kill(actor)  # where only its answer was lost
            self._invite()
        return True

    @property
    def hired(self) -> list[Any]:
        """Guests, those that wait for room included."""
        return [*self._guests, *self._waiting.values()]

    def _invite(self) -> None:
        if self._hires > 0:
            self._hires -= 1
            actor = self._hire()
            self._waiting[actor.base_digest.remote()] = actor

    def _greet(self) -> None:
        import ray
        from ray.exceptions import RayActorError

        if not self._waiting:
            return
        answered, _ = ray.wait(
            list(self._waiting), num_returns=len(self._waiting), timeout=0, fetch_local=False
        )
        for reference in answered:
            actor = self._waiting.pop(reference)
            try:
                same = ray.get(reference) == ray.get(self._expected)
            except RayActorError as error:
                if (
                    error.actor_init_failed
                ):  # a model or a package is missing there: say so, rather than try for ever
                    raise
                self._invite()
                continue
            if not same:
                raise TrainingError(
                    "a rollout actor loaded another model than the learner: check model.path on "
                    "its node"
                )
            self._guests.append(actor)
            logging.getLogger(__name__).info(
                "a rollout actor has joined: %d now", len(self._steady) + len(self._guests)
            )


def _lost(actor: Any, error: Exception) -> bool:
    """Whether it was this very actor, or an answer of it, that was lost."""
    from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
        error = error.cause  # the actor's answer was to be another call's argument
    if isinstance(error, RayActorError):
        return error.actor_id in (None, actor._actor_id.hex())
    return isinstance(error, ObjectLostError)
