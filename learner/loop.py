"""The actor-learner loop: three coroutines, rollouts, training and selection, over handles of
actors.

The handles are Ray's or inline ones, and the loop cannot tell. It holds references and metrics,
never a trajectory.

    Rollouts    round r:   rollout.sample ──> replay.add         every few rounds: rollout.validate
                               ^                  |                                       |
                 weights of a  |                  |  trajectories of whole rounds         |
                 known version |                  v                                       |
    Training    update v:  learner.update <── replay.sample                               |
                               |    ^──────── critic.score <── critic.fit                 |
                               |                               replay.states              |
                               v                                                          v
                           versions.publish: version v + 1               Selection: versions.best

In synchronous mode a round is drawn by a version that is known beforehand, at most
``loop.pipeline`` rounds ahead; in asynchronous mode by the newest one, and the ledger holds which.
The batch after the present one is asked for before the present update ends, so that the critic
works while the learner does. No round waits for a validation: its calls lie between those of the
rounds, and versions are considered in the order of their rounds, each once an update has learned
from it.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from learner import events
from learner.calls import first_of
from learner.events import Emit
from learner.roles import Actors, CheckpointStore, Resumption
from learner.rollouts import Rollouts
from learner.selection import Selection
from learner.session import Session
from learner.timeline import Timeline
from learner.training import Training
from learner.versions import Candidate, Versions
from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Config
from rl_unlearn.critic_file import CriticState
from rl_unlearn.errors import TrainingError
from rl_unlearn.messages import Snapshot
from rl_unlearn.trajectory import Trajectory


@dataclass(frozen=True)
class Result:
    """Outcome of a run: the policy that the selection CLIP liked best, and what it took."""

    adapter: AdapterState
    """LoRA state, see adapter.save_adapter."""
    policy_version: int
    digest: str
    critic: CriticState | None
    """The last critic; None if there was none."""
    images: int
    """Images generated: warm-up, rounds and validations."""
    updates: int
    seconds: float


class Loop:
    """One run: warm-up or restoring, the three coroutines, and the choice of the best version."""

    def __init__(
        self,
        config: Config,
        actors: Actors,
        emit: Emit,
        store: CheckpointStore | None = None,
        timeline: Timeline | None = None,
    ):
        """``timeline``: of the run so far, if it is resumed."""
        timeline = timeline or Timeline(config)
        self._session = Session(config, actors, emit, store, timeline)
        self._selection = Selection(self._session)
        self._rollouts = Rollouts(self._session, self._selection)
        self._training = Training(self._session)

    async def run(self, start: Resumption | None = None) -> Result:
        """Runs to the end; raises LostError when all actors stay silent for ``loop.timeout``
        seconds.
        """
        session, actors = self._session, self._session.actors
        session.emit(events.Phase(phase="starting actors"))
        session.timeline.forget_unseen()
        await self._check_models()
        if start is None:
            session.emit(events.Phase(phase="warm-up"))
            versions = Versions(0, {0: actors.learner.weights.remote()}, session.timeline)
            warmed_up = await self._warm_up(versions)
        else:
            session.emit(events.Phase(phase="restoring"))
            versions, warmed_up = await self._restore(start), None
        anchor = await session.calls.wait(actors.rollouts[0].anchor.remote(), "rollout")
        try:
            async with asyncio.TaskGroup() as group:
                # The first rounds are drawn by version 0: they need not wait for the fit.
                beside = [
                    group.create_task(self._rollouts.run(versions)),
                    group.create_task(self._selection.run(versions)),
                ]
                if warmed_up is not None:
                    await warmed_up
                session.emit(events.Phase(phase=f"training, {session.config.concept} -> {anchor}"))
                await self._training.run(versions)
                await versions.wait_for_round(versions.learned)
                for task in beside:  # in asynchronous mode later rounds are drawn for nothing
                    task.cancel()
        except* Exception as errors:
            raise first_of(errors) from errors
        return await self._finish(versions)

    async def _check_models(self) -> None:
        """TrainingError unless all actors hold the same model."""
        calls, actors = self._session.calls, self._session.actors
        expected = await calls.wait(actors.learner.base_digest.remote(), "learner")
        for actor in actors.rollouts:
            if await calls.wait(actor.base_digest.remote(), "rollout") != expected:
                raise TrainingError(
                    "a rollout actor loaded another model than the learner: check model.path on "
                    "its node"
                )

    async def _warm_up(self, versions: Versions) -> Awaitable[None]:
        """Draws by the untouched model, and judges it; what is returned waits until retention pool
        and critic are made of these images.

        The critic is fitted on the first of them while the others are drawn.
        """
        session = self._session
        config, actors = session.config, session.actors
        images, share = config.critic.warmup_images, config.critic.warmup_target_fraction
        prompts = session.book.draw(config.seed, 0, images, share)
        fits = []

        def fit(chunk: range) -> None:
            size = config.rollout.batch
            part, parts = chunk.start // size, -(-images // size)
            rows = actors.replay.warm_up.remote(chunk.start, chunk.stop)
            fits.append(actors.critic.warm_up.remote(rows, part, parts))
            told = events.WarmingUp(step="drawing", done=chunk.stop, total=images)
            session.emit(told)

        untouched = actors.learner.untouched.remote()
        drawing = self._rollouts.ask(0, prompts, untouched, fresh=False)
        validation = self._selection.ask(untouched)
        await self._rollouts.collect(drawing, fit)
        warm_up = actors.replay.warm_up.remote(0, images)
        pool = actors.learner.make_pool.remote(warm_up)
        self._selection.judge_untouched(versions, untouched, await validation())
        return self._end_of_warm_up(warm_up, pool, fits)

    async def _end_of_warm_up(
        self,
        warm_up: Awaitable[Trajectory],
        pool: Awaitable[int],
        fits: Sequence[Awaitable[dict[str, float]]],
    ) -> None:
        session, calls = self._session, self._session.calls
        fit: dict[str, float] = {}
        for done, share in enumerate(fits, start=1):
            fit = await calls.wait(share, "critic")
            if fit:  # nothing is fitted without a critic, or in a share without steps
                told = events.WarmingUp(step="fitting the critic", done=done, total=len(fits))
                session.emit(told)
        states = await calls.wait(pool, "learner")
        if session.store is not None:
            trajectories = await calls.wait(warm_up, "replay")
            session.store.keep_warm_up(Snapshot(trajectories.tensors()))
        images = session.config.critic.warmup_images
        session.emit(events.WarmUp.model_validate({"images": images, "pool_states": states, **fit}))

    async def _restore(self, start: Resumption) -> Versions:
        """Gives all actors what they held; returns the versions as they were."""
        calls, actors, parts = self._session.calls, self._session.actors, start.parts
        learner = actors.learner.restore.remote(parts["learner"], start.warm_up)
        critic = actors.critic.restore.remote(parts["critic"], start.warm_up)
        replay = actors.replay.restore.remote(parts["replay"])
        await calls.wait(learner, "learner")
        await calls.wait(critic, "critic")
        await calls.wait(replay, "replay")
        self._session.started -= parts["loop"].values["seconds"]
        return Versions.restored(parts["loop"], self._session.timeline)

    async def _finish(self, versions: Versions) -> Result:
        """Validates the last version and fetches the best one."""
        session, rounds = self._session, self._session.config.loop.rounds
        validation = await self._selection.ask(versions.newest)()
        last = Candidate(rounds, versions.version, versions.newest)
        self._selection.consider(versions, last, validation, final=True)
        assert versions.best is not None
        best = await session.fetch(versions.best.weights)
        critic = await session.calls.wait(session.actors.critic.state.remote(), "critic")
        session.emit(events.Phase(phase="done"))
        return Result(
            best.state,
            best.version,
            best.digest,
            critic,
            session.images(rounds, versions.rounds, final=True),
            versions.version,
            session.seconds,
        )
