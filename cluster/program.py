"""Places the actors and runs the loop: inline, on a private local Ray, or on an existing cluster.

Beside `drawing` the only module that says ``ray.remote``.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.critic import CriticActor
from actors.replay import ReplayActor
from actors.rollout import RolloutActor
from cluster.heartbeat import GROUP, Heartbeats, beating
from cluster.inline import InlineHandle
from cluster.supervision import supervised
from learner.board import Keeper, Resumption
from learner.learner import Learner
from learner.loop import Handles, Listener, Loop, Result
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, DataError, LostError, MachineError, TrainingError, UserError
from rl_unlearn.image_rewards import ImageReward

_PLACEMENT_SECONDS = 60
_RESTARTS = 10


def train(
    config: Config,
    listen: Listener,
    spill: Path | None = None,
    image_rewards: Mapping[str, ImageReward] | None = None,
    keeper: Keeper | None = None,
    start: Resumption | None = None,
) -> Result:
    """Runs to the end and returns the selected policy; ``listen(event, row)`` is called on this process.

    ``spill``: folder for replay batches, in it one for each generation of actors. ``image_rewards``: functions for
    names in ``reward.images``, shipped to the actors. ``keeper`` takes checkpoints, ``start`` is one to go on from.
    When an actor is lost the run goes on from the newest checkpoint (event ``restart``: what was told of later rounds
    will be told again). Raises UserError with one line that names the cause.
    """
    _check(config)

    def inline(start: Resumption | None) -> Result:
        handles = _inline_actors(config, _of_generation(spill), image_rewards)
        return asyncio.run(Loop(config, handles, listen, keeper).run(start))

    def on_ray(start: Resumption | None) -> Result:
        heartbeats = Heartbeats(config.loop.heartbeat, listen)
        try:
            with _ray_actors(config, _of_generation(spill), image_rewards, heartbeats) as handles:
                return asyncio.run(heartbeats.during(Loop(config, handles, listen, keeper).run(start)))
        except Exception as error:
            raise explain(error) from error

    if config.cluster.inline:
        return supervised(inline, config.loop.restarts, listen, keeper, start)
    with ray_cluster(config):
        return supervised(on_ray, config.loop.restarts, listen, keeper, start)


def _of_generation(spill: Path | None) -> Path | None:
    """A folder of its own for each generation of actors: what an actor that was given up may still write is apart."""
    if spill is None:
        return None
    folder = spill / f"generation-{len(list(spill.glob('generation-*'))) + 1:03d}"
    folder.mkdir(parents=True)
    return folder


def _check(config: Config) -> None:
    """Refuses settings under which the loop would wait for ever, or depend on timing in synchronous mode."""
    updates, images, ahead = config.learner.updates_per_round, config.rollout.images, config.loop.pipeline + 1
    if config.learner.batch * updates < images:
        # The rest would pile up until the rate limiter stops the rollouts.
        raise ConfigError(
            f"learner.batch * learner.updates_per_round is {config.learner.batch * updates}, less than the "
            f"rollout.images {images} of a round: raise one, or lower rollout.images"
        )
    if config.replay.max_lag < ahead * updates - 1:
        raise ConfigError(
            f"replay.max_lag {config.replay.max_lag} evicts images before they are learned from: use at least "
            f"{ahead * updates - 1}, or lower loop.pipeline"
        )
    # Eviction by capacity depends on timing; in synchronous mode it must never be needed.
    rounds = config.replay.max_lag // updates + ahead + 1 if config.loop.mode == "sync" else ahead + 1
    needed = config.critic.warmup_images + rounds * images
    if config.replay.capacity < needed:
        raise ConfigError(
            f"replay.capacity {config.replay.capacity} is too small for what must be kept: use at least {needed}"
        )


def _inline_actors(config: Config, spill: Path | None, image_rewards: Mapping[str, ImageReward] | None) -> Handles:
    return Handles(
        rollouts=[InlineHandle(RolloutActor(config, image_rewards)) for _ in range(config.rollout.actors)],
        critic=InlineHandle(CriticActor(config)),
        replay=InlineHandle(ReplayActor(config, str(spill) if spill else None)),
        learner=InlineHandle(Learner(config)),
    )


@contextmanager
def ray_cluster(config: Config) -> Iterator[None]:
    """A connection to the private local Ray or the existing cluster; MachineError if none answers.

    A process that is connected already, as the trial of a sweep is, stays so.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # A bare ray.init() attaches to whatever runs on this machine: be explicit. A job finds its cluster in RAY_ADDRESS.
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"num_cpus": max(os.cpu_count() or 1, 2), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, **local)
    except Exception as error:  # Ray raises bare ones, too, as when a node is slow to start
        raise MachineError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}): "
            "start one, correct cluster.address, or use --inline"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def actor_bundles(config: Config) -> list[dict[str, float]]:
    """What the actors of a run reserve, one bundle each: rollout actors, critic, learner, replay store."""
    cluster = config.cluster
    gpus = [cluster.rollout_gpus] * config.rollout.actors + [cluster.critic_gpus, cluster.learner_gpus, 0.0]
    return [{"CPU": cluster.actor_cpus, **({"GPU": share} if share else {})} for share in gpus]


@contextmanager
def _placed(bundles: list[dict[str, float]]) -> Iterator[tuple[Any, int]]:
    """A placement group, and where in it the bundles begin.

    A trial of a sweep lives in a group that has them after its own bundle, and that outlives the run.
    """
    import ray
    from ray.util.placement_group import get_current_placement_group, placement_group, remove_placement_group

    group = get_current_placement_group()
    if group is not None and len(group.bundle_specs) > len(bundles):
        yield group, 1
        return
    group = placement_group(bundles, strategy="PACK")
    try:
        if not group.wait(_PLACEMENT_SECONDS):
            cpus, gpus = (sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("CPU", "GPU"))
            raise MachineError(
                f"the cluster cannot place {len(bundles)} actors with {cpus:g} CPUs and {gpus:g} GPUs "
                f"(it has {ray.cluster_resources()}): lower rollout.actors or the cluster.*_gpus"
            )
        yield group, 0
    finally:
        remove_placement_group(group)


@contextmanager
def _ray_actors(
    config: Config, spill: Path | None, image_rewards: Mapping[str, ImageReward] | None, heartbeats: Heartbeats
) -> Iterator[Handles]:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    count, bundles = config.rollout.actors, actor_bundles(config)
    actors: list[Any] = []

    def spawn(actor: type, bundle: int, *args: object, **options: object) -> object:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=first + bundle)
        cpus, gpus = bundles[bundle]["CPU"], bundles[bundle].get("GPU", 0.0)
        remote = ray.remote(concurrency_groups={GROUP: 1})(beating(actor))
        remote = remote.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=strategy, **options)
        actors.append(remote.remote(*args))
        heartbeats.follow(f"{actor.__name__} {bundle}", actors[-1], replaceable="max_restarts" in options)
        return actors[-1]

    # Sampling is a pure function of its arguments: a rollout actor may be restarted and its call repeated.
    # The others hold state: their calls are delivered at most once, and their loss is the end of this generation.
    with _placed(bundles) as (group, first):
        try:
            yield Handles(
                rollouts=[
                    spawn(RolloutActor, i, config, image_rewards, max_restarts=_RESTARTS, max_task_retries=_RESTARTS)
                    for i in range(count)
                ],
                critic=spawn(CriticActor, count, config),
                learner=spawn(Learner, count + 1, config),
                replay=spawn(ReplayActor, count + 2, config, str(spill) if spill else None),
            )
        finally:
            for actor in actors:
                ray.kill(actor)


def explain(error: Exception) -> Exception:
    """What a user should read of an error that crossed Ray: the actor's own one, or one line on who was lost."""
    from ray.exceptions import RayError, RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError | UserError):
        error = error.cause  # of another actor, whose result was to be this one's argument
    if isinstance(error, UserError) or not isinstance(error, RayError):
        return error
    text = str(error).strip()
    last = text.splitlines()[-1]
    # Of an error in an actor's constructor Ray keeps the text alone: "rl_unlearn.errors.DataError: model.path ...".
    name, _, message = last.partition(": ")
    for kind in (ConfigError, MachineError, DataError):
        if name == f"{kind.__module__}.{kind.__name__}":
            return kind(message)
    if isinstance(error, RayTaskError) or "creation task" in text:  # it would fail in the same way again
        return TrainingError(f"an actor failed: {last}")
    who = re.search(r"class_name: (\w+)", text)
    detail = last.partition("Worker exit detail: ")[2] or last
    return LostError(f"{who[1] if who else 'an actor'} was lost: {detail.partition(' Some common causes')[0]}")
