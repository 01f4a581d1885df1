"""The rollout actors at hand: those that are required, and spare ones for as long as a node has
room for them.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, overload

from learner.roles import RolloutHandle
from rl_unlearn.errors import TrainingError

_STARTS = 10
"""Times that each spare place is filled again after an actor was lost."""


class ElasticRollouts(Sequence[RolloutHandle]):
    """Handles of rollout actors; how many there are may change from one call to the next.

    A spare actor waits, outside of the run's placement group, until a node has room for it. It is
    admitted once it has shown that it holds the same model, and leaves with its node: another one
    is then waited for. What it had in hand must be asked of others.
    """

    # Handles are typed as Ray makes them.
    def __init__(self, required: list[Any], start: Callable[[], Any], spare: int):
        """``required``: at least one actor that is always there; ``start`` starts a spare one, of
        which there are up to ``spare``.
        """
        self._required, self._start = required, start
        self._spare: list[Any] = []
        self._waiting: dict[Any, Any] = {}
        self._starts_left = spare * _STARTS
        self._expected = required[0].base_digest.remote()
        for _ in range(spare):
            self._start_another()

    def __len__(self) -> int:
        self._admit()
        return len(self._required) + len(self._spare)

    @overload
    def __getitem__(self, index: int) -> RolloutHandle: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RolloutHandle]: ...
    def __getitem__(self, index: int | slice) -> RolloutHandle | Sequence[RolloutHandle]:
        return [*self._required, *self._spare][index]

    def left(self, actor: Any, error: Exception) -> bool:
        """Whether the error of a call says that the actor, a spare one, has left; it is then no
        longer at hand.
        """
        if any(actor is required for required in self._required) or not _lost(actor, error):
            return False
        if any(actor is spare for spare in self._spare):  # else an earlier call has told
            import ray

            self._spare = [spare for spare in self._spare if spare is not actor]
            ray.kill(actor)  # where only its answer was lost
            self._start_another()
        return True

    @property
    def spare(self) -> list[Any]:
        """The spare actors, those that wait for room included."""
        return [*self._spare, *self._waiting.values()]

    def _start_another(self) -> None:
        if self._starts_left > 0:
            self._starts_left -= 1
            actor = self._start()
            self._waiting[actor.base_digest.remote()] = actor

    def _admit(self) -> None:
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
                # A model or a package is missing there: say so, rather than try for ever.
                if error.actor_init_failed:
                    raise
                self._start_another()
                continue
            if not same:
                raise TrainingError(
                    "a rollout actor loaded another model than the learner: check model.path on "
                    "its node"
                )
            self._spare.append(actor)
            logging.getLogger(__name__).info(
                "a rollout actor has joined: %d now", len(self._required) + len(self._spare)
            )


def _lost(actor: Any, error: Exception) -> bool:
    """Whether it was this very actor, or an answer of it, that was lost."""
    from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
        error = error.cause  # the actor's answer was to be another call's argument
    if isinstance(error, RayActorError):
        return error.actor_id in (None, actor._actor_id.hex())
    return isinstance(error, ObjectLostError)
