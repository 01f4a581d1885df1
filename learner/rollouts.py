"""The coroutine that draws: one round after another, each by a known policy version."""

import functools
import itertools
from collections.abc import Awaitable, Callable

from learner import events
from learner.roles import Ref, RolloutHandle
from learner.selection import Selection
from learner.session import Session
from learner.versions import Versions
from rl_unlearn.errors import NonFiniteError
from rl_unlearn.messages import Request, Snapshot, Weights

MAX_POISONED = 3
"""Rounds in a row with trajectories that are not finite, after which a run does not just go on."""


class Rollouts:
    """Draws rounds into the replay store and has the versions that drew them validated."""

    def __init__(self, session: Session, selection: Selection):
        self._session, self._selection = session, selection
        self._poisoned = 0

    async def run(self, versions: Versions) -> None:
        """Draws all rounds that are left.

        In asynchronous mode it never ends by itself: an update may take more fresh images than a
        round brings, and stale ones are evicted, so only the training can say when it has enough.
        """
        config, first = self._session.config, versions.rounds + 1
        sync = config.loop.mode == "sync"
        for round in range(first, config.loop.rounds + 1) if sync else itertools.count(first):
            version, weights = await versions.behaviour(round)
            await self.collect(round, self._session.draw_prompts(round), weights, fresh=True)
            if (round - 1) % config.selection.every == 0:
                await self._selection.consider(versions, round, version, weights)
            await versions.passed(round)

    async def collect(
        self,
        round: int,
        prompts: list[int],
        weights: Ref[Weights],
        fresh: bool,
        kept: Callable[[range], None] | None = None,
    ) -> None:
        """Has trajectories of these prompts drawn and added to the store.

        ``fresh``: updates shall learn from them. ``kept`` is told, in order, of every chunk of
        positions some of which are in the store. Raises NonFiniteError where trajectories that are
        not finite do not cease.
        """
        actors, size = self._session.actors, self._session.config.rollout.batch

        def add(actor: RolloutHandle, request: Request) -> Awaitable[int]:
            return actors.replay.add.remote(actor.sample.remote(request, weights), fresh)

        waiting = []
        for chunk, offset in enumerate(range(0, len(prompts), size)):
            request = Request(round, tuple(prompts[offset : offset + size]), offset)
            call = functools.partial(add, request=request)
            waiting.append(self._session.calls.ask_rollout(round + chunk, call))
        total = 0
        for chunk, answer in enumerate(waiting):
            finite = await answer()
            total += finite
            if finite and kept is not None:
                kept(range(len(prompts))[chunk * size : (chunk + 1) * size])
        await self._tell_refused(round, len(prompts), len(prompts) - total)

    async def _tell_refused(self, round: int, images: int, refused: int) -> None:
        session = self._session
        self._poisoned = self._poisoned + 1 if refused else 0
        if not refused:
            return
        trajectories = await session.calls.wait(
            session.actors.replay.refused.remote(round), "replay"
        )
        kept = ""
        if session.store is not None:
            snapshot = Snapshot(trajectories.tensors())
            kept = f", kept in {session.store.keep_refused(round, snapshot)}"
        problem = f"{refused} of {images} trajectories of round {round} are not finite"
        session.emit(events.Warning(round=round, message=f"{problem}; refused{kept}"))
        if refused == images or self._poisoned == MAX_POISONED:
            raise NonFiniteError(
                f"{problem}, {self._poisoned} rounds in a row: check the reward, or lower "
                "learner.lr"
            )
