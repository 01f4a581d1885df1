"""The replay actor: keeps trajectories as Arrow record batches, limits the rate, evicts by age and
by capacity.

Its methods are coroutines: the rate limiter waits inside ``add`` and ``sample`` (as Reverb's does),
so that nothing that was paid for with GPU seconds is dropped because the other side is slow.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.files import spilled
from rl_unlearn.noise import generator
from rl_unlearn.snapshot import Snapshot, under
from rl_unlearn.states import States, choose
from rl_unlearn.trajectory import PER_ROUND, Trajectory

_REMEMBERED = 8


@dataclass
class _Row:
    trajectory: pa.RecordBatch
    round: int
    version: int
    draws: int


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
        self._capacity, self._max_lag = config.replay.capacity, config.replay.max_lag
        self._images = config.rollout.images
        self._max_ahead = self._images * (config.loop.pipeline + 1)
        self._spill = Path(spill) if spill else None
        self._rows: dict[int, _Row] = {}
        self._seen: set[int] = set()
        self._arrived: Counter[int] = Counter()
        """Rows seen of each round, the refused ones, too."""
        self._newest = {-1: 0}
        """Newest round that the batch for each update could hold; before the first one, -1, that is
        the warm-up's."""
        self._refused: dict[int, Trajectory] = {}
        self._owed: set[int] = set()
        """Refused rows that no batch has gone without yet."""
        self._drawn: dict[tuple[int | str, ...], list[int]] = {}
        self._changed = asyncio.Condition()
        self._counts = {
            "added": 0,
            "repeated": 0,
            "refused": 0,
            "evicted_stale": 0,
            "evicted_capacity": 0,
            "sampled": 0,
        }

    async def add(self, trajectory: Trajectory, fresh: bool = True) -> int:
        """Commits all rows at once; waits while more rows were never sampled than ``loop.pipeline``
        + 1 rounds hold.

        A round that has begun is let in whole. With ``fresh=False`` the rows count as sampled
        before (the warm-up's, of round 0). Returns how many were new and finite.
        """
        rounds = trajectory.rounds.tolist()
        finite, batch = trajectory.finite().tolist(), trajectory.to_arrow()
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    not fresh
                    or self._unsampled() <= self._max_ahead
                    or any(self._arrived[r] for r in rounds)
                )
            )
            unseen = [i for i, id in enumerate(trajectory.ids.tolist()) if id not in self._seen]
            new = [i for i in unseen if finite[i]]
            for i in unseen:
                if not finite[i]:
                    self._refuse(trajectory[i : i + 1], fresh)
            if new and self._spill:
                self._write(batch.take(pa.array(new)), rounds[new[0]], int(trajectory.ids[new[0]]))
            for i in new:
                id = int(trajectory.ids[i])
                self._rows[id] = _Row(
                    batch.slice(i, 1), rounds[i], int(trajectory.policy_versions[i]), int(not fresh)
                )
                self._seen.add(id)
            self._arrived.update(rounds[i] for i in unseen)
            self._counts["added"] += len(new)
            self._counts["repeated"] += len(trajectory) - len(unseen)
            self._changed.notify_all()
        return len(new)

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
        call = (version, *seed)
        if call in self._drawn:
            return self._read(self._drawn[call])

        def ready() -> bool:
            up_to = self._whole() if newest is None else newest
            # At each look, for what arrives meanwhile may be stale, too; and first, for an `add`
            # may need the room.
            self._evict_stale(version, up_to)
            if self._whole() < up_to:
                return False
            fresh = len(self._fresh(up_to)) + sum(id // PER_ROUND <= up_to for id in self._owed)
            return (newest is not None or fresh >= minimum_fresh) and any(
                0 < r.round <= up_to for r in self._rows.values()
            )

        async with self._changed:
            await self._changed.wait_for(ready)
            up_to = self._whole() if newest is None else newest
            self._evict_oldest(up_to)
            first = self._fresh(up_to)[:count]
            chosen = sorted(
                first + self._uniform(count - len(first), range(1, up_to + 1), set(first), seed)
            )
            for id in chosen:
                self._rows[id].draws += 1
            self._counts["sampled"] += len(chosen)
            self._owed = {id for id in self._owed if id // PER_ROUND > up_to}
            self._newest[version] = up_to
            self._drawn[call] = chosen
            if len(self._drawn) > _REMEMBERED:
                del self._drawn[next(iter(self._drawn))]
            self._changed.notify_all()
            return self._read(chosen)

    async def newest_round(self, version: int) -> int:
        """Newest round that the batch for the update of policy ``version`` could hold; waits until
        it was sampled.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: version in self._newest)
            return self._newest[version]

    async def recent(self, count: int, version: int, seed: tuple[int | str, ...]) -> Trajectory:
        """Uniformly drawn trajectories for the critic, the warm-up's too; does not count as
        sampling.

        They are of the rounds that the batch for the update of policy ``version`` could hold (-1:
        the warm-up); waits until that was sampled.
        """
        newest = await self.newest_round(version)
        return self._read(sorted(self._uniform(count, range(newest + 1), set(), seed)))

    async def states(
        self, rows: int, count: int, renoised: float, version: int, seed: tuple[int | str, ...]
    ) -> States:
        """``count`` noisy latents of ``rows`` trajectories drawn as :meth:`recent` draws them; see
        `states.choose`.
        """
        drawn = await self.recent(rows, version, seed)
        return choose(drawn, count, renoised, generator(*seed, "states"))

    async def refused(self, round: int) -> Trajectory:
        """What was refused in a round; forgets that of earlier ones."""
        self._refused = {id: row for id, row in self._refused.items() if id // PER_ROUND >= round}
        return Trajectory.cat(
            [row for id, row in sorted(self._refused.items()) if id // PER_ROUND == round]
        )

    async def counts(self) -> dict[str, int]:
        """Rows held now, and rows added, repeated, refused, sampled and evicted so far."""
        return {"held": len(self._rows), **self._counts}

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
        later = {id for id in self._seen if id // PER_ROUND > newest}
        refused = sum(id in self._refused for id in later)
        ids = sorted(self._rows.keys() - later)
        rows = [self._rows[id] for id in ids]
        tensors = under("rows", self._read(ids).tensors()) if ids else {}
        tensors["draws"] = torch.tensor([row.draws for row in rows], dtype=torch.int64)
        tensors["seen"] = torch.tensor(sorted(self._seen - later), dtype=torch.int64)
        counts = self._counts | {
            "added": self._counts["added"] - len(later) + refused,
            "refused": self._counts["refused"] - refused
        }  # fmt: skip
        return Snapshot(tensors, {"counts": counts, "owed": sorted(self._owed - later)})

    async def restore(self, snapshot: Snapshot) -> None:
        """Goes on where ``snapshot`` was taken."""
        parts = snapshot.part("rows")
        if parts:
            trajectory = Trajectory(**parts)
            batch = trajectory.to_arrow()
            columns = (
                trajectory.ids,
                trajectory.rounds,
                trajectory.policy_versions,
                snapshot.tensors["draws"],
            )
            for i, (id, round, version, draws) in enumerate(
                zip(*(c.tolist() for c in columns), strict=True)
            ):
                self._rows[id] = _Row(batch.slice(i, 1), round, version, draws)
        self._seen = set(snapshot.tensors["seen"].tolist())
        self._arrived = Counter(id // PER_ROUND for id in self._seen)
        self._newest = {-1: self._whole()}
        self._counts = dict(snapshot.values["counts"])
        self._owed = set(snapshot.values["owed"])

    def _refuse(self, row: Trajectory, fresh: bool) -> None:
        id = int(row.ids)
        self._seen.add(id)
        self._refused[id] = row
        self._counts["refused"] += 1
        if fresh:
            self._owed.add(id)

    def _unsampled(self) -> int:
        return sum(row.draws == 0 for row in self._rows.values())

    def _fresh(self, up_to_round: int) -> list[int]:
        return sorted(
            id for id, row in self._rows.items() if row.draws == 0 and row.round <= up_to_round
        )

    def _uniform(
        self, count: int, rounds: range, without: set[int], seed: tuple[int | str, ...]
    ) -> list[int]:
        ids = sorted(
            id for id, row in self._rows.items() if row.round in rounds and id not in without
        )
        order = torch.randperm(len(ids), generator=generator(*seed)).tolist()
        return [ids[i] for i in order[:count]]

    def _read(self, ids: list[int]) -> Trajectory:
        return Trajectory.cat([Trajectory.from_arrow(self._rows[id].trajectory) for id in ids])

    def _whole(self) -> int:
        """The newest round all rows of which have come; rounds come one after another."""
        return max(
            (round for round, count in self._arrived.items() if round and count == self._images),
            default=0,
        )

    def _evict_stale(self, version: int, up_to: int) -> None:
        stale = [
            i
            for i, row in self._rows.items()
            if row.round <= up_to and version - row.version > self._max_lag
        ]
        self._evict(stale, "evicted_stale")

    def _evict_oldest(self, up_to: int) -> None:
        there = sorted(id for id, row in self._rows.items() if row.round <= up_to)
        self._evict(there[: max(0, len(there) - self._capacity)], "evicted_capacity")

    def _evict(self, ids: list[int], count: str) -> None:
        for id in ids:
            del self._rows[id]
        self._counts[count] += len(ids)
        if ids:  # an `add` may be waiting for this room
            self._changed.notify_all()

    def _write(self, batch: pa.RecordBatch, round: int, first: int) -> None:
        # One file a batch, renamed into place: a reader sees a whole batch or none.
        assert self._spill is not None
        self._spill.mkdir(parents=True, exist_ok=True)
        spilled.write(self._spill / f"round-{round:06d}-{first:016x}.arrow", batch)
