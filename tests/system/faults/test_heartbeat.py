"""Heartbeats on Ray, with actors that hold nothing: who works long is left alone, who is stopped is
gone in time.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from cluster.heartbeat import GROUP, Heartbeats, Loss, beating
from rl_unlearn.errors import LostError

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SECONDS = 12.0
"""Of silence. Enough for a busy machine to answer."""
FIRST = SECONDS / 2
"""By then the first heartbeat, a sixth of that, was answered. Before it an actor counts as still
starting."""


class Worker:
    """Sleeps, and keeps the interpreter's lock."""

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def compute(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(10_000))
        return os.getpid()


class Store:
    """An actor of coroutines."""

    async def pid(self) -> int:
        return os.getpid()

    async def block(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One private Ray for all tests here."""
    import ray
    from ray import cloudpickle

    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)  # workers cannot import tests
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture
def made() -> Iterator[Any]:
    """Makes actors, and ends them."""
    import ray

    actors: list[Any] = []

    def make(kind: type, **options: Any) -> tuple[Any, int]:
        actor = (
            ray.remote(concurrency_groups={GROUP: 1})(beating(kind))
            .options(num_cpus=0.1, **options)
            .remote()
        )
        actors.append(actor)
        return actor, ray.get(actor.pid.remote(), timeout=300)

    yield make
    for actor in actors:
        ray.kill(actor)


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


def follow(actor: Any, loss: Loss, run: Any) -> tuple[Any, list[str]]:
    told: list[str] = []
    heartbeats = Heartbeats(SECONDS, lambda event: told.append(event.message))
    heartbeats.follow("Worker 1", actor, loss)
    return asyncio.run(heartbeats.during(run)), told


async def struck(pid: int, blow: signal.Signals) -> None:
    """A run in which the process is hit after its first heartbeat, and that would go on for
    long."""
    await asyncio.sleep(FIRST)
    os.kill(pid, blow)
    await asyncio.sleep(600)


async def result(reference: Any) -> Any:
    return await reference


@pytest.mark.parametrize(
    ("kind", "method"), [(Worker, "sleep"), (Worker, "compute"), (Store, "block")]
)
def test_a_long_call_is_no_silence(made, kind, method):
    actor, pid = made(kind)
    assert follow(actor, "fatal", result(getattr(actor, method).remote(2 * SECONDS))) == (pid, [])


def test_a_stopped_actor_without_state_is_replaced_and_its_call_repeated(made):
    actor, pid = made(Worker, max_restarts=5, max_task_retries=5)

    async def run() -> int:
        answer = actor.sleep.remote(2 * FIRST)
        await asyncio.sleep(FIRST)
        os.kill(pid, signal.SIGSTOP)
        return await answer

    other, told = follow(actor, "replaced", run())
    assert other != pid
    assert told == ["Worker 1 hangs, gave no heartbeat in 12 s: it is killed and replaced"]
    assert gone(pid, 0), "a stopped process is really ended"


@pytest.mark.parametrize("kind", [Worker, Store])
def test_a_stopped_actor_with_state_is_a_loss(made, kind):
    import ray

    actor, pid = made(kind)

    begun = time.monotonic()
    with pytest.raises(LostError, match="Worker 1 hangs: it gave no heartbeat in 12 s"):
        follow(actor, "fatal", struck(pid, signal.SIGSTOP))
    assert time.monotonic() - begun < 6 * SECONDS
    ray.kill(actor)
    assert gone(pid, 120), "a stopped process is really ended"


def test_a_death_is_noticed_at_once(made):
    from ray.exceptions import RayActorError

    actor, pid = made(Worker)

    begun = time.monotonic()
    with pytest.raises(RayActorError):
        follow(actor, "fatal", struck(pid, signal.SIGKILL))
    assert time.monotonic() - begun < FIRST + SECONDS
