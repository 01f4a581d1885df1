"""What a Ray cluster has, asked without placing anything on it."""

from dataclasses import dataclass, field

from cluster import connection
from cluster.placement import fits, places
from rl_unlearn.config import Config

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """One machine of a cluster and all that it offers, free or not."""

    name: str
    cpus: float
    gpus: float
    labels: dict[str, str] = field(default_factory=dict)


def nodes(config: Config) -> list[Node]:
    """Returns the living machines of the cluster that the configuration means.

    Starts a private one if it means none. Raises MachineError if none answers, or one of other
    versions of Ray or Python.
    """
    with connection.ray_cluster(config):
        import ray

        return [
            Node(
                node["NodeManagerAddress"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
                node["Labels"],
            )
            for node in ray.nodes()
            if node["Alive"]
        ]


def room(config: Config, nodes: list[Node]) -> str | None:
    """Returns what is missing for the actors of a run, or None.

    An actor does not spread over machines.
    """
    left = [[node.gpus, node.cpus] for node in nodes]
    wanted = [
        (place.resources.get("GPU", 0.0), place.resources["CPU"], place.labels)
        for place in places(config).all
    ]
    for placed, (gpus, cpus, labels) in enumerate(
        sorted(wanted, key=lambda place: (len(place[2]), *place[:2]), reverse=True)
    ):
        fitting = [
            free
            for node, free in zip(nodes, left, strict=True)
            if free[0] >= gpus - _ROUNDING
            and free[1] >= cpus - _ROUNDING
            and fits(node.labels, labels)
        ]
        if not fitting:
            kind = f"{cpus:g} CPUs, {gpus:g} GPUs" + (f" and the labels {labels}" if labels else "")
            return (
                f"only {placed} of {len(wanted)} actors fit: there is no room for one with {kind}"
            )
        best = min(fitting)  # keeps GPUs for those that need them
        best[0] -= gpus
        best[1] -= cpus
    return None
