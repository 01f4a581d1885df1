"""The coroutine that learns: one update after another, while the critic works on the next batch."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import NamedTuple

from learner import events
from learner.calls import awaited
from learner.diagnostics import Metrics, of_round
from learner.roles import CheckpointStore
from learner.session import Session
from learner.versions import Versions
from rl_unlearn.messages import Snapshot
from rl_unlearn.trajectory import Scores, Trajectory


class _Batch(NamedTuple):
    """References to what an update needs."""

    trajectories: Awaitable[Trajectory]
    scores: Awaitable[Scores]
    fitted: Awaitable[dict[str, float]]
    """Metrics of the critic's fit, which later calls to the store must wait for."""
    newest_round: Awaitable[int]
    """Newest round that the batch could hold."""


@dataclass
class _Checkpoint:
    """Parts of a checkpoint that is on its way, as the actors held them between two updates."""

    store: CheckpointStore
    critic: Awaitable[Snapshot]
    replay: Snapshot


class Training:
    """Makes all updates, publishes the policy versions, and has checkpoints written."""

    def __init__(self, session: Session):
        self._session = session
        self._writing: asyncio.Future[None] | None = None
        """The checkpoint that is on its way to the disk."""

    async def run(self, versions: Versions) -> None:
        """Makes the updates that are left."""
        session = self._session
        config, learner = session.config, session.actors.learner
        per_round = config.learner.updates_per_round
        total = config.loop.rounds * per_round
        if versions.version >= total:  # resumed from the last checkpoint
            return
        newest = versions.rounds  # no rollouts have begun
        updates: list[Metrics] = []
        batch = self._prepare(versions.version)
        for version in range(versions.version, total):
            trajectories, scores, fitted, looked = batch
            update = learner.update.remote(trajectories, scores, version)
            critic_metrics = await session.calls.wait(fitted, "critic")
            round, ends = version // per_round + 1, (version + 1) % per_round == 0
            # Before the next update's calls, so that it shows the actors between the two.
            checkpoint = await self._begin_checkpoint(round, version) if ends else None
            if version + 1 < total:  # the critic works on the next batch while the learner learns
                batch = self._prepare(version + 1)
            metrics = dict(await session.calls.wait(update, "learner"))
            before, newest = newest, await session.calls.wait(looked, "replay")
            session.timeline.learned(version, newest)
            drawn_by = session.timeline.between(before, newest)
            session.emit(_ledger_row(round, version, metrics, newest, drawn_by))
            await versions.publish(version + 1, learner.weights.remote(), newest)
            updates.append(metrics | critic_metrics)
            if ends:
                await self._report(versions, round, of_round(updates))
                updates = []
            if checkpoint is not None:
                await self._commit(checkpoint, versions, round, newest)
        await self._written()

    def _prepare(self, version: int) -> _Batch:
        """Asks for the scored batch of the update of policy ``version``.

        The critic is fitted on what the store holds, these trajectories among it, before it scores
        them or after, as the estimator says. The next call must wait for the fit, which reads the
        store after the batch was drawn.
        """
        config, actors = self._session.config, self._session.actors
        fresh = 0 if version % config.learner.updates_per_round else config.rollout.images
        batch = actors.replay.sample.remote(
            config.learner.batch,
            version,
            self._session.timeline.newest_round(version),
            fresh,
            (config.seed, "batch", version),
        )
        newest_round = actors.replay.newest_round.remote(version)
        count = config.critic.steps * config.critic.fresh if config.estimator.row.critic else 0
        states = actors.replay.states.remote(
            config.critic.window,
            count,
            config.critic.renoised,
            version,
            (config.seed, "recent", version),
        )
        # Calls to the critic run in the order in which they are made here.
        if config.estimator.row.scores_first:
            scores = actors.critic.score.remote(batch, version)
            fitted = actors.critic.fit.remote(states, version + 1)
        else:
            fitted = actors.critic.fit.remote(states, version + 1)
            scores = actors.critic.score.remote(batch, version)
        return _Batch(batch, scores, fitted, newest_round)

    async def _report(self, versions: Versions, round: int, metrics: Metrics) -> None:
        session = self._session
        counts = await session.calls.wait(session.actors.replay.counts.remote(), "replay")
        images, seconds = session.images(round, versions.rounds), session.seconds
        session.emit(
            events.Round.model_validate(
                {
                    "round": round,
                    "rounds": session.config.loop.rounds,
                    "images": images,
                    "seconds": seconds,
                    "images_per_second": images / seconds,
                    **metrics,
                    "replay": counts,
                }
            )
        )

    async def _begin_checkpoint(self, round: int, version: int) -> _Checkpoint | None:
        session = self._session
        if session.store is None or not session.store.due(round):
            return None
        critic = session.actors.critic.snapshot.remote()
        # The critic's is only asked for: its calls run in order. Ray takes the replay actor's,
        # which are asynchronous, out of order.
        replay = awaited(session.actors.replay.snapshot.remote(version))
        return _Checkpoint(session.store, critic, await session.calls.wait(replay, "replay"))

    async def _commit(
        self, checkpoint: _Checkpoint, versions: Versions, round: int, newest_round: int
    ) -> None:
        """Has what the actors held between two updates, and this process's share of it, written
        while the run goes on.
        """
        session = self._session
        learner = session.actors.learner.snapshot.remote()
        await versions.wait_for_round(newest_round)  # its version may be the best one
        parts = {
            "critic": await session.calls.wait(checkpoint.critic, "critic"),
            "replay": checkpoint.replay,
            "learner": await session.calls.wait(learner, "learner"),
            "loop": await versions.snapshot(newest_round, session.seconds, session.fetch),
        }
        await self._written()
        # On a thread of its own: a store of real size is gigabytes, and rounds are to be asked for.
        # However the run ends, its event loop waits for the thread.
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, checkpoint.store.commit, round, parts)
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _written(self) -> None:
        """Returns once the checkpoint before is on the disk; raises what went wrong."""
        if self._writing is not None:
            await self._writing


def _ledger_row(
    round: int, version: int, metrics: Metrics, newest_round: int, drawn_by: dict[int, int]
) -> events.Update:
    """The ledger's row of an update; takes what stands there alone out of the metrics."""
    return events.Update.model_validate(
        {
            "update": version + 1,
            "round": round,
            "version_in": version,
            "version_out": metrics["policy_version"],
            "policy_lag_max": metrics["policy_lag_max"],
            "newest_round": newest_round,
            "drawn_by": drawn_by,
            **{key: metrics.pop(key) for key in ("trajectories", "batch", "weights")},
        }
    )
