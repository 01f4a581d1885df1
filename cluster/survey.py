"""What a Ray cluster has, asked without placing anything on it."""

from dataclasses import dataclass

from cluster.program import actor_bundles, ray_cluster
from rl_unlearn.config import Config


@dataclass(frozen=True)
class Node:
    """One machine of a cluster and all that it offers, free or not."""

    name: str
    cpus: float
    gpus: float


def nodes(config: Config) -> list[Node]:
    """The living machines of the cluster that the configuration means; starts a private one if it means none.

    Raises MachineError if none answers, or one of other versions of Ray or Python.
    """
    with ray_cluster(config):
        import ray

        return [
            Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]


def room(config: Config, there: list[Node]) -> str | None:
    """What is missing for the actors of a run, or None; an actor does not spread over machines."""
    left = [[node.gpus, node.cpus] for node in there]
    bundles = sorted(((b.get("GPU", 0.0), b.get("CPU", 0.0)) for b in actor_bundles(config)), reverse=True)
    for placed, (gpus, cpus) in enumerate(bundles):
        fitting = [node for node in left if node[0] >= gpus - 1e-9 and node[1] >= cpus - 1e-9]
        if not fitting:
            return f"only {placed} of {len(bundles)} actors fit: none is left for one with {cpus:g} CPUs, {gpus:g} GPUs"
        best = min(fitting)  # keeps GPUs for those that need them
        best[0] -= gpus
        best[1] -= cpus
    return None
