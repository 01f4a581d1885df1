"""Starts the actors and runs the loop: inline, on a private local Ray, or on an existing cluster.

Beside `images` the only module that makes Ray actors.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from actors.critic import CriticActor
from actors.replay import ReplayActor
from actors.rollout import RolloutActor
from cluster import connection, event_loop, placement, telemetry
from cluster.elastic_rollouts import ElasticRollouts
from cluster.heartbeat import GROUP, Heartbeats, Loss, beating
from cluster.inline import InlineHandle
from cluster.ranked_learner import RankedLearner
from cluster.supervision import supervised
from learner import events
from learner.events import Emit
from learner.learner import Learner
from learner.loop import Loop, Result
from learner.roles import (
    Actors,
    CheckpointStore,
    CriticHandle,
    LearnerHandle,
    ReplayHandle,
    Resumption,
    RolloutHandle,
)
from learner.timeline import Timeline
from rl_unlearn import consistency
from rl_unlearn.config import Config
from rl_unlearn.image_rewards import ImageReward

_RESTARTS = 10


def train(
    config: Config,
    emit: Emit,
    spill: Path | None = None,
    image_rewards: Mapping[str, ImageReward] | None = None,
    store: CheckpointStore | None = None,
    start: Resumption | None = None,
    timeline: Timeline | None = None,
) -> Result:
    """Runs to the end and returns the selected policy; ``emit(event)`` is called on this process.

    ``spill``: folder for replay batches, in it one for each generation of actors.
    ``image_rewards``: functions for names in ``reward.images``, shipped to the actors. ``store``
    takes checkpoints, ``start`` is one to resume from, ``timeline`` what is on record of the run
    beyond it: an asynchronous run repeats these updates as they were. When an actor is lost the run
    goes on from the newest checkpoint (event ``restart``: later rounds are told again). Raises
    UserError with one line that names the cause.
    """
    consistency.check(config)
    timeline = timeline or Timeline(config)

    def inline(start: Resumption | None) -> Result:
        async def run() -> Result:
            # The actors are made here because torch's number of threads is each thread's own.
            actors = _inline_actors(config, _of_generation(spill), image_rewards)
            return await Loop(config, actors, emit, store, timeline).run(start)

        return event_loop.run(run())

    def on_ray(emit: Emit, start: Resumption | None) -> Result:
        heartbeats = Heartbeats(config.loop.heartbeat, emit)
        emit(events.Phase(phase="waiting for room"))
        try:
            with _ray_actors(config, _of_generation(spill), image_rewards, heartbeats) as actors:
                loop = Loop(config, actors, emit, store, timeline)
                return event_loop.run(heartbeats.during(loop.run(start)))
        except Exception as error:
            raise connection.explain(error) from error

    if config.cluster.inline:
        return supervised(inline, config.loop.restarts, emit, store, start)
    with connection.ray_cluster(config) as dashboard, telemetry.published(config, emit) as publish:
        if dashboard is not None:
            publish(events.Dashboard(url=dashboard))
        attempt = partial(on_ray, publish)
        return supervised(attempt, config.loop.restarts, publish, store, start)


def _of_generation(spill: Path | None) -> Path | None:
    """A folder of its own for each generation of actors: what an actor that was given up may still
    write is apart.
    """
    if spill is None:
        return None
    folder = spill / f"generation-{len(list(spill.glob('generation-*'))) + 1:03d}"
    folder.mkdir(parents=True)
    return folder


def _inline_actors(
    config: Config, spill: Path | None, image_rewards: Mapping[str, ImageReward] | None
) -> Actors:
    learner, rollouts = Learner(config), []
    for _ in range(config.rollout.actors):
        rollouts.append(RolloutActor(config, image_rewards))
        rollouts[-1].share_frozen(learner.policy)
    return Actors(
        rollouts=[cast(RolloutHandle, InlineHandle(actor)) for actor in rollouts],
        critic=cast(CriticHandle, InlineHandle(CriticActor(config))),
        replay=cast(ReplayHandle, InlineHandle(ReplayActor(config, str(spill) if spill else None))),
        learner=cast(LearnerHandle, InlineHandle(learner)),
    )


@contextmanager
def _ray_actors(
    config: Config,
    spill: Path | None,
    image_rewards: Mapping[str, ImageReward] | None,
    heartbeats: Heartbeats,
) -> Iterator[Actors]:
    import ray

    actors: list[Any] = []
    elastic: ElasticRollouts | None = None

    def begin(actor: type, loss: Loss, *args: object, **options: object) -> Any:
        made = (
            ray.remote(concurrency_groups={GROUP: 1})(beating(actor))
            .options(**options)
            .remote(*args)
        )
        heartbeats.follow(actor.__name__, made, loss)
        return made

    def spawn(actor: type, *args: object, **options: object) -> Any:
        actors.append(
            begin(actor, "replaced" if "max_restarts" in options else "fatal", *args, **options)
        )
        return actors[-1]

    rooms = placement.places(config)
    with placement.reserved(rooms.all) as group:
        where = iter([group.options(number, place) for number, place in enumerate(rooms.all)])
        spare = config.rollout.actors - len(rooms.rollouts) if group.made_for_run else 0

        def start_spare() -> Any:
            place = rooms.rollouts[0]
            labels = {"label_selector": place.labels, "scheduling_strategy": "DEFAULT"}
            return begin(
                RolloutActor,
                "leaves",
                config,
                image_rewards,
                **placement.resources(place),
                **labels,
            )

        # Sampling is a pure function of its arguments: a rollout actor may be restarted and its
        # call repeated. The others hold state: their calls are delivered at most once, and their
        # loss is the end of this generation.
        again: dict[str, Any] = {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
        try:
            rollouts = [
                spawn(RolloutActor, config, image_rewards, **next(where), **again)
                for _ in rooms.rollouts
            ]
            critic = spawn(CriticActor, config, **next(where))
            learners = [spawn(Learner, config, **next(where)) for _ in rooms.learners]
            replay = spawn(ReplayActor, config, str(spill) if spill else None, **next(where))
            learner: Any = learners[0] if len(learners) == 1 else RankedLearner(learners)
            if spare:
                elastic = ElasticRollouts(rollouts, start_spare, spare)
                yield Actors(elastic, critic, replay, learner, elastic.left)
            else:
                yield Actors(rollouts, critic, replay, learner)
        finally:
            for actor in actors + (elastic.spare if elastic else []):
                ray.kill(actor)
