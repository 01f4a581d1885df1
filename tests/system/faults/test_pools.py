"""Pools of nodes on a real Ray cluster of several: labels, fractions of GPUs, nodes that come and
go during a run.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiny

from cluster import connection, program
from learner.events import Event

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SETTINGS: dict[str, Any] = {"rollout": {"batch": 2}, "loop": {"rounds": 3, "timeout": 600.0}}
PATIENCE = 300


def patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a node 30 seconds to start, which a busy machine may need more of."""

    def get(*args: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*args)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    return get


def agent_ports() -> dict[str, int]:
    """Of a node's agent: a node that is told them does not wait for the agent to choose, which ends
    it after 15 s.
    """
    with contextlib.ExitStack() as stack:
        names = (
            "metrics_agent_port",
            "metrics_export_port",
            "dashboard_agent_listen_port",
            "runtime_env_agent_port",
        )
        sockets = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names
        }
        return {name: found.getsockname()[1] for name, found in sockets.items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for actors; nodes are added by the tests. The GPUs are names only."""
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # A busy machine starts a node's agent late, which ends the node, and answers late, which
        # counts as death.
        patch.setenv("RAY_agent_register_timeout_ms", "600000")
        patch.setenv("RAY_health_check_timeout_ms", "120000")
        patch.setattr(services, "get_node", patient(services.get_node))
        patch.setattr(connection, "ray_cluster", lambda _: contextlib.nullcontext())
        there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **agent_ports()})
        try:
            ray.init(address=there.address, log_to_driver=False)
            yield there
        finally:
            ray.shutdown()
            there.shutdown()


@pytest.fixture(scope="module")
def inline() -> list[str]:
    """Digests of all policy versions."""
    digests: list[str] = []
    program.train(
        tiny.config(**SETTINGS),
        lambda said: digests.extend(tiny.versions([(said.name, said.row())])),
    )
    return digests


@contextlib.contextmanager
def nodes(cluster: Any, *options: dict[str, Any]) -> Iterator[list[Any]]:
    """More nodes, for a while."""
    added = [
        cluster.add_node(**{"num_cpus": 1, "num_gpus": 0} | option, **agent_ports())
        for option in options
    ]
    cluster.wait_for_nodes(PATIENCE)
    try:
        yield added
    finally:
        for node in added:
            if node in cluster.worker_nodes:
                cluster.remove_node(node, allow_graceful=False)


def living(class_name: str) -> dict[str, list[str]]:
    """States of this cluster's actors of a class that are not dead, by node id."""
    from ray.util.state import list_actors

    found: dict[str, list[str]] = {}
    for actor in list_actors(filters=[("class_name", "=", class_name), ("state", "!=", "DEAD")]):
        found.setdefault(actor.node_id or "", []).append(actor.state)
    return found


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.5)


def test_each_pool_gets_its_actors(cluster: Any, inline: list[str]) -> None:
    settings = {
        "inline": False, "actor_cpus": 0.1, "rollout_gpus": 0.5, "critic_gpus": 0.25,
        "rollout_labels": {"pool": "in(rollouts, spare)"},
        "critic_labels": {"pool": "!rollouts", "tier": "gpu"},
        "learner_labels": {"tier": "learners"},
    }  # fmt: skip
    seen: dict[str, dict[str, list[str]]] = {}
    digests: list[str] = []

    def emit(said: Event) -> None:
        name, row = said.name, said.row()
        digests.extend(tiny.versions([(name, row)]))
        if name == "round" and not seen:
            seen.update(
                {
                    kind: living(kind)
                    for kind in ("RolloutActor", "CriticActor", "Learner", "ReplayActor")
                }
            )

    pools: list[dict[str, Any]] = [
        {"num_gpus": 1, "labels": {"pool": "rollouts", "tier": "gpu"}},
        {"num_gpus": 1, "labels": {"pool": "critics", "tier": "gpu"}},
        {"labels": {"tier": "learners"}},
    ]
    with nodes(cluster, *pools) as (rollouts, critics, learners):
        config = tiny.config(**SETTINGS | {"rollout": {"batch": 2, "actors": 2}}, cluster=settings)
        program.train(config, emit)
    assert seen["RolloutActor"] == {rollouts.node_id: ["ALIVE"] * 2}, "two halves of one GPU"
    assert seen["CriticActor"] == {critics.node_id: ["ALIVE"]}
    assert seen["Learner"] == {learners.node_id: ["ALIVE"]}
    assert len(seen["ReplayActor"]) == 1
    assert digests == inline, "a machine without a GPU computes on its CPU"


def test_rollout_actors_come_and_go_with_their_nodes(cluster: Any) -> None:
    """One is there from the start; a node brings two more, and takes them away while they draw."""
    loop = {"rounds": 8, "timeout": 600.0, "pipeline": 1}
    settings = {**SETTINGS, "loop": loop}
    expected: list[str] = []
    found: list[str] = []
    program.train(
        tiny.config(**settings),
        lambda said: expected.extend(tiny.versions([(said.name, said.row())])),
    )
    room: list[Any] = []

    def emit(said: Event) -> None:
        name, row = said.name, said.row()
        found.extend(tiny.versions([(name, row)]))
        if name != "round":
            return
        if row["round"] == 1:
            assert sum(map(len, living("RolloutActor").values())) == 3, (
                "one at work, two waiting for room"
            )
            room.append(
                cluster.add_node(num_cpus=1, num_gpus=0, labels={"pool": "guests"}, **agent_ports())
            )
            until(lambda: living("RolloutActor").get(room[0].node_id) == ["ALIVE"] * 2)
        if row["round"] == 6:
            cluster.remove_node(room[0], allow_graceful=False)
            until(lambda: room[0].node_id not in living("RolloutActor"))

    chosen, joined = program.ElasticRollouts.__getitem__, []
    config = tiny.config(
        **{**settings, "rollout": {"batch": 2, "actors": 3, "actors_min": 1}},
        cluster={"inline": False, "actor_cpus": 0.25},
    )

    def noted(self: Any, index: Any) -> Any:
        joined.append(len(self._spare))
        return chosen(self, index)

    with pytest.MonkeyPatch.context() as patch, nodes(cluster, {"labels": {"pool": "steady"}}):
        patch.setattr(program.ElasticRollouts, "__getitem__", noted)
        program.train(config, emit)
        until(lambda: not living("RolloutActor"))
    assert max(joined) == 2, "both guests joined"
    assert joined[0] == joined[-1] == 0, "none at the start, none at the end"
    assert found == expected
    assert len(set(found)) == 8
