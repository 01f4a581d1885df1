"""The store behind the replay actor: single trajectories by id, each with memory of its own.
Nothing here waits.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from rl_unlearn.config import Config
from rl_unlearn.files import spilled
from rl_unlearn.messages import Snapshot
from rl_unlearn.noise import generator
from rl_unlearn.states import States, choose_of
from rl_unlearn.trajectory import PER_ROUND, Trajectory


@dataclass
class _Row:
    trajectory: Trajectory
    """Of a batch of one; shares no memory with those that came with it, so that evicting it frees
    what it takes."""
    round: int
    version: int
    draws: int


class Refused:
    """Trajectories that are not finite: they are kept aside to be looked at, and counted where
    updates would have learned from them.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Trajectory] = {}
        self.owed: set[int] = set()
        """Ids that no batch has gone without yet."""

    def add(self, row: Trajectory, fresh: bool) -> None:
        """Keeps one trajectory; ``fresh``: updates would have learned from it."""
        self._rows[int(row.ids)] = row
        if fresh:
            self.owed.add(int(row.ids))

    def among(self, ids: set[int]) -> int:
        """How many of these ids are kept here."""
        return sum(id in self._rows for id in ids)

    def of_round(self, round: int) -> Trajectory:
        """The rows refused in a round; forgets those of earlier ones."""
        self._rows = {id: row for id, row in self._rows.items() if id // PER_ROUND >= round}
        rows = [row for id, row in sorted(self._rows.items()) if id // PER_ROUND == round]
        return Trajectory.cat(rows)


class Store:
    """Single trajectories by id; a trajectory that is not finite is refused and kept aside."""

    def __init__(self, config: Config, spill: Path | None):
        """``spill``: folder to which committed batches are also written."""
        self._capacity, self._max_lag = config.replay.capacity, config.replay.max_lag
        self._images = config.rollout.images
        self._spill = spill
        self._rows: dict[int, _Row] = {}
        self._spare: list[Trajectory] = []
        """Memory of evicted rows, for those to come: new memory takes several times as long to
        write to."""
        self._seen: set[int] = set()
        self._of_version: defaultdict[int, set[int]] = defaultdict(set)
        """Ids by the policy version that drew them: stale ones are looked for at each arrival."""
        self._fresh: set[int] = set()
        """Ids that were never sampled."""
        self._arrived: Counter[int] = Counter()
        """Rows seen of each round, the refused ones included."""
        self._whole = 0
        self.refused = Refused()
        self._counts = dict.fromkeys(
            ("added", "repeated", "refused", "evicted_stale", "evicted_capacity", "sampled"), 0
        )

    def commit(self, trajectory: Trajectory, fresh: bool) -> int:
        """Adds all rows whose ids are new and whose numbers are finite; returns how many.

        With ``fresh=False`` they count as sampled before.
        """
        rounds, finite = trajectory.rounds.tolist(), trajectory.finite().tolist()
        unseen = [i for i, id in enumerate(trajectory.ids.tolist()) if id not in self._seen]
        new = [i for i in unseen if finite[i]]
        if new and self._spill is not None:
            self._write(trajectory[torch.tensor(new)], rounds[new[0]])
        for i in unseen:  # once they are on disk: where that fails, the call may be repeated
            self._seen.add(int(trajectory.ids[i]))
            if finite[i]:
                self._hold(trajectory[i : i + 1], int(not fresh))
            else:
                self.refused.add(trajectory[i : i + 1].clone(), fresh)
        self._arrived.update(rounds[i] for i in unseen)
        self._counts["added"] += len(new)
        self._counts["refused"] += len(unseen) - len(new)
        self._counts["repeated"] += len(trajectory) - len(unseen)
        return len(new)

    def has_begun(self, rounds: list[int]) -> bool:
        """Whether rows of one of these rounds, or of one after it, have arrived."""
        return max(self._arrived, default=0) >= min(rounds)

    def whole(self) -> int:
        """The newest round all rows of which, and of the rounds before it, have come."""
        while self._arrived[self._whole + 1] == self._images:
            self._whole += 1
        return self._whole

    def unsampled(self) -> int:
        """How many rows were never sampled."""
        return len(self._fresh)

    def waiting(self, up_to: int) -> int:
        """How many rows of rounds up to this one were never sampled, the refused ones included."""
        return len(self.fresh(up_to)) + sum(id // PER_ROUND <= up_to for id in self.refused.owed)

    def fresh(self, up_to: int) -> list[int]:
        """Ids that were never sampled, of rounds up to this one, oldest first."""
        return sorted(id for id in self._fresh if id // PER_ROUND <= up_to)

    def holds(self, up_to: int) -> bool:
        """Whether there is a row to learn from, of round 1 to this one."""
        return any(0 < row.round <= up_to for row in self._rows.values())

    def uniform(
        self, count: int, rounds: range, without: set[int], seed: tuple[int | str, ...]
    ) -> list[int]:
        """Up to ``count`` ids of these rounds, drawn without replacement, none of ``without``."""
        ids = sorted(i for i, row in self._rows.items() if row.round in rounds and i not in without)
        order = torch.randperm(len(ids), generator=generator(*seed)).tolist()
        return [ids[i] for i in order[:count]]

    def of_round(self, round: int, start: int, stop: int) -> list[int]:
        """Ids of a round from one position up to another, in order."""
        first = round * PER_ROUND
        return [id for id in range(first + start, first + stop) if id in self._rows]

    def mark_sampled(self, ids: list[int], up_to: int) -> None:
        """Counts these rows as sampled, and refused ones of rounds up to this one as gone
        without.
        """
        for id in ids:
            self._rows[id].draws += 1
        self._fresh.difference_update(ids)
        self._counts["sampled"] += len(ids)
        self.refused.owed = {id for id in self.refused.owed if id // PER_ROUND > up_to}

    def read(self, ids: list[int]) -> Trajectory:
        """The trajectories of these ids, in this order."""
        return Trajectory.cat([self._rows[id].trajectory for id in ids])

    def states(self, ids: list[int], count: int, renoised: float, draw: torch.Generator) -> States:
        """States of the trajectories of these ids, see `states.choose`; what is not chosen is not
        touched.
        """
        return choose_of([self._rows[id].trajectory for id in ids], count, renoised, draw)

    def evict_stale(self, version: int, up_to: int) -> bool:
        """Evicts rows, of rounds up to this one, that are too old for policy ``version``; returns
        whether there were any.
        """
        stale = [
            id
            for drawn_by, ids in self._of_version.items()
            if version - drawn_by > self._max_lag
            for id in sorted(ids)
            if id // PER_ROUND <= up_to
        ]
        return self._evict(stale, "evicted_stale")

    def evict_oldest(self, up_to: int) -> bool:
        """Evicts the oldest rows of rounds up to this one beyond the capacity; returns whether
        there were any.
        """
        held = sorted(id for id, row in self._rows.items() if row.round <= up_to)
        return self._evict(held[: max(0, len(held) - self._capacity)], "evicted_capacity")

    def counts(self) -> dict[str, int]:
        """Rows held now, and rows added, repeated, refused, sampled and evicted so far."""
        return {"held": len(self._rows), **self._counts}

    def snapshot(self, newest: int) -> Snapshot:
        """The store without what has come of rounds later than this one."""
        later = {id for id in self._seen if id // PER_ROUND > newest}
        refused = self.refused.among(later)
        ids = sorted(self._rows.keys() - later)
        # Copies already: `under` would make others.
        rows = self.read(ids).tensors() if ids else {}
        tensors = {f"rows.{name}": tensor for name, tensor in rows.items()}
        tensors["draws"] = torch.tensor([self._rows[id].draws for id in ids], dtype=torch.int64)
        tensors["seen"] = torch.tensor(sorted(self._seen - later), dtype=torch.int64)
        counts = self._counts | {
            "added": self._counts["added"] - len(later) + refused,
            "refused": self._counts["refused"] - refused,
        }
        return Snapshot(tensors, {"counts": counts, "owed": sorted(self.refused.owed - later)})

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over what another store held when ``snapshot`` was taken."""
        tensors = snapshot.part("rows")
        if tensors:
            held, draws = Trajectory(**tensors), snapshot.tensors["draws"].tolist()
            for i, drawn in enumerate(draws):
                self._hold(held[i : i + 1], drawn)
        self._seen = set(snapshot.tensors["seen"].tolist())
        self._arrived = Counter(id // PER_ROUND for id in self._seen)
        self._counts = dict(snapshot.values["counts"])
        self.refused.owed = set(snapshot.values["owed"])

    def _hold(self, row: Trajectory, draws: int) -> None:
        """Keeps a copy of one trajectory."""
        id, round, version = int(row.ids), int(row.rounds), int(row.policy_versions)
        kept = row.copied_to(self._spare.pop()) if self._spare else row.clone()
        self._rows[id] = _Row(kept, round, version, draws)
        self._of_version[version].add(id)
        if not draws:
            self._fresh.add(id)

    def _evict(self, ids: list[int], count: str) -> bool:
        for id in ids:
            row = self._rows.pop(id)
            self._of_version[row.version].remove(id)
            if not self._of_version[row.version]:
                del self._of_version[row.version]
            self._spare.append(row.trajectory)
        self._fresh.difference_update(ids)
        self._counts[count] += len(ids)
        return bool(ids)

    def _write(self, trajectory: Trajectory, round: int) -> None:
        # One file a batch, renamed into place: a reader sees a whole batch or none.
        assert self._spill is not None
        self._spill.mkdir(parents=True, exist_ok=True)
        name = f"round-{round:06d}-{int(trajectory.ids[0]):016x}.arrow"
        spilled.write(self._spill / name, trajectory.to_arrow())
