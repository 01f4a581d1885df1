"""The replay actor: limits the rate of rollouts and training, and gives each its trajectories.

Its methods are coroutines: the rate limiter waits inside ``add`` and ``sample`` (as Reverb's does),
so that nothing that was paid for with GPU seconds is dropped because the other side is slow.
"""

import asyncio
from pathlib import Path

from actors.store import Store
from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.messages import Snapshot
from rl_unlearn.noise import generator
from rl_unlearn.states import States
from rl_unlearn.trajectory import Trajectory

_REMEMBERED = 8


class ReplayActor:
    """A store of single trajectories by id; adding an id twice is a no-op, for calls may be
    delivered twice.

    Batches are drawn from whole rounds only, and rows leave only when a batch is drawn: what a
    batch holds is a function of the newest round it may hold, never of which call came first. A
    trajectory that is not finite is refused: counted, kept aside to be looked at, never given to
    critic or learner.
    """

    def __init__(self, config: Config, spill: str | None = None):
        """``spill``: folder to which committed batches are also written."""
        self._store = Store(config, Path(spill) if spill else None)
        self._max_ahead = config.rollout.images * (config.loop.pipeline + 1)
        self._newest = {-1: 0}
        """Newest round that the batch for each update could hold; before the first one, -1, that is
        the warm-up's."""
        self._drawn: dict[tuple[int | str, ...], list[int]] = {}
        """Ids of the latest batches, by the call that drew them."""
        self._changed = asyncio.Condition()

    async def add(self, trajectory: Trajectory, fresh: bool = True) -> int:
        """Commits all rows at once; waits while more rows were never sampled than ``loop.pipeline``
        + 1 rounds hold.

        A round that has begun is let in whole. With ``fresh=False`` the rows count as sampled
        before (the warm-up's, of round 0). Returns how many were new and finite.
        """
        store, rounds = self._store, trajectory.rounds.tolist()
        async with self._changed:
            await self._changed.wait_for(
                lambda: not fresh or store.unsampled() <= self._max_ahead or store.has_begun(rounds)
            )
            added = store.commit(trajectory, fresh)
            self._changed.notify_all()
        return added

    async def sample(
        self,
        count: int,
        version: int,
        newest: int | None,
        minimum_fresh: int,
        seed: tuple[int | str, ...],
    ) -> Trajectory:
        """``count`` trajectories without replacement (all, if there are fewer) for an update of
        policy ``version``.

        Waits until round ``newest`` is whole; without one, until there are ``minimum_fresh`` rows
        of whole rounds that were never sampled, and takes the newest of these rounds. Rows that
        were never sampled come first (oldest first), the rest is uniform over the eligible ones:
        rounds 1 to ``newest``, policies at most ``max_lag`` updates behind. Older rows, and the
        oldest ones beyond the capacity, are evicted. The warm-up is not learned from: its prompts
        are drawn for the critic. Deterministic in ``newest``, the batches before and ``seed``; the
        same ``seed`` and version once more are a repeated call, which gives the same rows and
        counts nothing.
        """
        call, store = (version, *seed), self._store
        if call in self._drawn:
            return store.read(self._drawn[call])

        def ready() -> bool:
            up_to = store.whole() if newest is None else newest
            # Each time, for what arrives meanwhile may be stale, too; and first, for an `add` may
            # need the room.
            if store.evict_stale(version, up_to):
                self._changed.notify_all()
            if store.whole() < up_to:
                return False
            enough = newest is not None or store.waiting(up_to) >= minimum_fresh
            return enough and store.holds(up_to)

        async with self._changed:
            await self._changed.wait_for(ready)
            up_to = store.whole() if newest is None else newest
            store.evict_oldest(up_to)
            first = store.fresh(up_to)[:count]
            rest = store.uniform(count - len(first), range(1, up_to + 1), set(first), seed)
            ids = sorted(first + rest)
            store.mark_sampled(ids, up_to)
            self._newest[version] = up_to
            self._drawn[call] = ids
            if len(self._drawn) > _REMEMBERED:
                del self._drawn[next(iter(self._drawn))]
            self._changed.notify_all()
            return store.read(ids)

    async def newest_round(self, version: int) -> int:
        """Newest round that the batch for the update of policy ``version`` could hold; waits until
        it was sampled.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: version in self._newest)
            return self._newest[version]

    async def warm_up(self, start: int, stop: int) -> Trajectory:
        """The warm-up's trajectories from one position up to another, those that are not finite
        left out.
        """
        return self._store.read(self._store.of_round(0, start, stop))

    async def states(
        self, rows: int, count: int, renoised: float, version: int, seed: tuple[int | str, ...]
    ) -> States:
        """``count`` noisy latents for the critic of ``rows`` trajectories, uniformly drawn, the
        warm-up's among them; does not count as sampling.

        They are of the rounds that the batch for the update of policy ``version`` could hold; waits
        until that was sampled. See `states.choose`.
        """
        ids = await self._recent(rows, version, seed)
        return self._store.states(ids, count, renoised, generator(*seed, "states"))

    async def _recent(self, count: int, version: int, seed: tuple[int | str, ...]) -> list[int]:
        newest = await self.newest_round(version)
        return sorted(self._store.uniform(count, range(newest + 1), set(), seed))

    async def refused(self, round: int) -> Trajectory:
        """What was refused in a round; forgets that of earlier ones."""
        return self._store.refused.of_round(round)

    async def counts(self) -> dict[str, int]:
        """Rows held now, and rows added, repeated, refused, sampled and evicted so far."""
        return self._store.counts()

    async def snapshot(self, version: int) -> Snapshot:
        """The store once the batch for policy ``version`` has been drawn, without what has come of
        later rounds.

        Raises TrainingError if a later batch has been drawn, too.
        """
        newest = self._newest[version]
        if version != max(self._newest):
            raise TrainingError(
                f"the batch after that of policy version {version} is drawn; its snapshot is too "
                "late"
            )
        return self._store.snapshot(newest)

    async def restore(self, snapshot: Snapshot) -> None:
        """Takes over what another one held when ``snapshot`` was taken."""
        self._store.restore(snapshot)
        self._newest = {-1: self._store.whole()}
