"""Where the actors of a run go: one place each, on nodes that carry the wished labels, reserved as
one group.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rl_unlearn.config import Cluster, Config
from rl_unlearn.errors import MachineError, NoRoomError

PLACEMENT_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """Room for one process, on a node with these labels."""

    resources: dict[str, float]
    labels: dict[str, str]


@dataclass(frozen=True)
class Places:
    """What the actors of a run reserve."""

    rollouts: list[Place]
    """Those that are required from the start to the end; spare actors come to as many more places
    of the first one's kind."""
    critic: Place
    learners: list[Place]
    replay: Place

    @property
    def all(self) -> list[Place]:
        """Returns all places in the order of the group's bundles."""
        return [*self.rollouts, self.critic, *self.learners, self.replay]


def places(config: Config) -> Places:
    """Returns the places of a run's actors, the spare ones left out."""
    cluster = config.cluster
    rollouts = (
        config.rollout.actors if config.rollout.actors_min is None else config.rollout.actors_min
    )
    return Places(
        rollouts=[_place(cluster, cluster.rollout_gpus, cluster.rollout_labels)] * rollouts,
        critic=_place(cluster, cluster.critic_gpus, cluster.critic_labels),
        learners=[_place(cluster, cluster.learner_gpus, cluster.learner_labels)]
        * config.learner.ranks,
        replay=_place(cluster, 0.0, {}),
    )


def _place(cluster: Cluster, gpus: float, labels: dict[str, str]) -> Place:
    return Place({"CPU": cluster.actor_cpus, **({"GPU": gpus} if gpus else {})}, labels)


@dataclass(frozen=True)
class Group:
    """A placement group, and where in it the places begin."""

    group: Any
    first: int
    made_for_run: bool
    """Made for this run; else it is that of a sweep's trial, which has room for nothing else."""

    def options(self, number: int, place: Place) -> dict[str, Any]:
        """Returns the options of the actor in the place of this number."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(
            self.group, placement_group_bundle_index=self.first + number
        )
        return {**resources(place), "scheduling_strategy": strategy}


def resources(place: Place) -> dict[str, Any]:
    """Returns a place's resources as options of an actor."""
    return {"num_cpus": place.resources["CPU"], "num_gpus": place.resources.get("GPU", 0.0)}


@contextmanager
def reserved(wanted: list[Place]) -> Iterator[Group]:
    """A group of these places.

    Raises NoRoomError, which says what is missing, if there is none within a minute.

    A trial of a sweep lives in a group that has them after its own bundle, and that outlives the
    run.
    """
    from ray.util.placement_group import (
        get_current_placement_group,
        placement_group,
        remove_placement_group,
    )

    group = get_current_placement_group()
    if group is not None and len(group.bundle_specs) > len(wanted):
        yield Group(group, 1, made_for_run=False)
        return
    group = placement_group(
        [place.resources for place in wanted],
        strategy="PACK",
        bundle_label_selector=[place.labels for place in wanted],
    )
    try:
        if not group.wait(PLACEMENT_SECONDS):  # nodes may be on their way
            raise NoRoomError(_missing(wanted))
        yield Group(group, 0, made_for_run=True)
    finally:
        remove_placement_group(group)


def check_room(wanted: list[Place]) -> None:
    """MachineError unless the connected cluster could hold one trial in these places: Tune would
    wait for ever.
    """
    import ray

    homeless = _homeless(wanted)
    if homeless:
        raise MachineError(homeless)
    available = ray.cluster_resources()
    for kind in ("CPU", "GPU"):
        needed = sum(place.resources.get(kind, 0.0) for place in wanted)
        if needed > available.get(kind, 0.0):
            raise MachineError(
                f"a trial needs {needed:g} {kind}s, the cluster has {available.get(kind, 0.0):g}: "
                "lower per_trial in the space file, rollout.actors, cluster.actor_cpus or the "
                "cluster.*_gpus"
            )


def fits(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that the selector asks for, as Ray reads it."""
    for key, wish in selector.items():
        wanted = wish.removeprefix("!")
        options = [option.strip() for option in wanted.removeprefix("in(").rstrip(")").split(",")]
        if (labels.get(key) in options) == wish.startswith("!"):
            return False
    return True


def _missing(wanted: list[Place]) -> str:
    import ray

    cpus, gpus = (
        sum(place.resources.get(kind, 0.0) for place in wanted) for kind in ("CPU", "GPU")
    )
    available = ray.cluster_resources()
    return _homeless(wanted) or (
        f"the cluster cannot place {len(wanted)} actors with {cpus:g} CPUs and {gpus:g} GPUs, in "
        f"the pools that cluster.*_labels name (it has {available.get('CPU', 0):g} CPUs and "
        f"{available.get('GPU', 0):g} GPUs): lower rollout.actors, learner.ranks or the "
        "cluster.*_gpus"
    )


def _homeless(wanted: list[Place]) -> str | None:
    """About the first place that no node's labels fit."""
    import ray

    nodes = [node["Labels"] for node in ray.nodes() if node["Alive"]]
    for place in wanted:
        if not any(fits(labels, place.labels) for labels in nodes):
            known = sorted(
                {
                    f"{key}={value}"
                    for labels in nodes
                    for key, value in labels.items()
                    if "ray.io/" not in key
                }
            )
            wish = ", ".join(f"{key}={value}" for key, value in place.labels.items())
            return (
                f"no node of the cluster has the labels {wish} (there are "
                f"{', '.join(known) or 'none'}): correct cluster.*_labels, or start a node with "
                "`ray start --labels`"
            )
    return None
