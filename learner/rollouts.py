"""The coroutine that draws: one round after another, each by a known policy version."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from learner import events
from learner.calls import Answer
from learner.roles import Ref, RolloutHandle
from learner.selection import Selection
from learner.session import Session
from learner.versions import Candidate, Versions
from rl_unlearn.errors import NonFiniteError
from rl_unlearn.messages import Request, Snapshot, Weights
from rl_unlearn.validation import Validation

MAX_POISONED = 3
"""Rounds in a row with trajectories that are not finite, after which a run does not just go on."""
IN_HAND = 2
"""Rounds that are asked for at once, at most: who is done with one finds the next one waiting."""


@dataclass(frozen=True)
class Drawing:
    """A round that was asked for."""

    round: int
    images: int
    answers: list[Answer[int]]
    """Each waits until a call's trajectories are in the store; the number of those that it took."""


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
        in_hand = asyncio.Semaphore(min(IN_HAND, config.loop.pipeline + 1))
        before: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            for round in range(first, config.loop.rounds + 1) if sync else itertools.count(first):
                await in_hand.acquire()
                candidate = Candidate(round, *await versions.behaviour(round))
                prompts = self._session.draw_prompts(round)
                drawing = self.ask(round, prompts, candidate.weights, fresh=True)
                validation = self._selection.ask_if_due(candidate)
                before = group.create_task(self._follow(before, drawing, candidate, validation))
                before.add_done_callback(lambda _: in_hand.release())

    def ask(self, round: int, prompts: list[int], weights: Ref[Weights], fresh: bool) -> Drawing:
        """Has trajectories of these prompts drawn and added to the store, at once.

        ``fresh``: updates shall learn from them.
        """
        actors, size = self._session.actors, self._session.config.rollout.batch

        def add(actor: RolloutHandle, request: Request) -> Awaitable[int]:
            return actors.replay.add.remote(actor.sample.remote(request, weights), fresh)

        answers = []
        for offset in range(0, len(prompts), size):
            request = Request(round, tuple(prompts[offset : offset + size]), offset)
            call = functools.partial(add, request=request)
            answers.append(self._session.calls.ask_rollout(call))
        return Drawing(round, len(prompts), answers)

    async def collect(self, drawing: Drawing, kept: Callable[[range], None] | None = None) -> None:
        """Returns once the store has a round.

        ``kept`` is told, in order, of every chunk of positions some of which are in the store.
        Raises NonFiniteError where trajectories that are not finite do not cease.
        """
        total, size = 0, self._session.config.rollout.batch
        for chunk, answer in enumerate(drawing.answers):
            finite = await answer()
            total += finite
            if finite and kept is not None:
                kept(range(drawing.images)[chunk * size : (chunk + 1) * size])
        await self._tell_refused(drawing.round, drawing.images, drawing.images - total)

    async def _follow(
        self,
        before: asyncio.Task[None] | None,
        drawing: Drawing,
        candidate: Candidate,
        validation: Answer[Validation] | None,
    ) -> None:
        """Collects a round after the one before it, and hands its version on to be considered."""
        if before is not None:
            await before
        await self.collect(drawing)
        self._selection.put(candidate, validation)

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
