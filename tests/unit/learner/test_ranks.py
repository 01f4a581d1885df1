"""Two learners in two processes, without Ray: the bits of one another, and the update of one that
learns alone.
"""

import itertools
import math
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_batches import collect, learn, scored

from learner.learner import Learner
from learner.ranks import Ranks
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.config import Config
from rl_unlearn.errors import TrainingError
from rl_unlearn.trajectory import Scored, Trajectory

PATIENCE = 300.0  # seconds, on a busy machine
Together = Callable[..., list[Any]]


def _work(rank: int, count: int, tasks: Any, addresses: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    while (sent := tasks.get()) is not None:
        task, arguments = sent
        try:
            answers.put((rank, task(rank, count, addresses, *arguments)))
        except Exception:
            answers.put((rank, traceback.format_exc()))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    """What ``task(rank, count, addresses, *arguments)`` gives on each of two ranks, in processes of
    their own.
    """
    spawn, count = multiprocessing.get_context("spawn"), 2
    addresses, answers, tasks = spawn.Queue(), spawn.Queue(), [spawn.Queue() for _ in range(count)]
    processes = [
        spawn.Process(target=_work, args=(rank, count, tasks[rank], addresses, answers))
        for rank in range(count)
    ]
    for process in processes:
        process.start()

    def carry_out(task: Callable[..., Any], *arguments: Any) -> list[Any]:
        for waiting in tasks:
            waiting.put((task, arguments))
        found: dict[int, Any] = {}
        while len(found) < count:
            rank, answer = answers.get(timeout=PATIENCE)
            assert not isinstance(answer, str), answer
            found[rank] = answer
        return [found[rank] for rank in range(count)]

    try:
        yield carry_out
        for waiting in tasks:
            waiting.put(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()


def join(learner: Any, rank: int, count: int, addresses: Any, *arguments: Any) -> None:
    """Rank 0 tells the others where it is."""
    if rank == 0:
        address = learner.listen("127.0.0.1", *arguments[1:])
        for _ in range(1, count):
            addresses.put(address)
    else:
        address = addresses.get(timeout=PATIENCE)
    learner.join(rank, count, address, *arguments)


# -- sums and shares -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 4, 7])
def test_shares_are_disjoint_in_order_and_whole(rows: int, count: int) -> None:
    shares = []
    for rank in range(count):
        ranks = Ranks()
        ranks._rank, ranks._count = rank, count
        shares.append(list(range(rows))[ranks.share(rows)])
    assert list(itertools.chain(*shares)) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_summed() -> None:
    numbers = torch.tensor([1.0, 2.0])
    Ranks().sum(numbers)
    Ranks().agree("the numbers", "whatever")
    assert numbers.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized(), "one rank needs no process group"


def _sums(rank: int, count: int, addresses: Any) -> dict[str, Any]:
    ranks = Ranks()
    join(ranks, rank, count, addresses, torch.device("cpu"), PATIENCE)
    odd = torch.randn(100_003, generator=torch.Generator().manual_seed(rank))
    matrix, lost = torch.full((2, 3), float(rank + 1)), torch.tensor([math.nan if rank else 0.0])
    ranks.sum(odd, matrix, lost)
    ranks.agree("the words", "the same")
    with pytest.raises(TrainingError, match=r"the words of learner ranks 1 of 2 differ"):
        ranks.agree("the words", f"mine is {rank}")
    interfaces = {os.environ.get(f"{kind}_SOCKET_IFNAME", "")[:2] for kind in ("GLOO", "NCCL")}
    return {
        "odd": digest({"odd": odd[None]}), "matrix": matrix.tolist(), "lost": lost.item(),
        "interfaces": interfaces
    }  # fmt: skip


def test_a_sum_has_the_same_bits_everywhere(together: Together) -> None:
    one, other = together(_sums)
    assert one["odd"] == other["odd"]
    assert one["matrix"] == other["matrix"] == [[3.0] * 3] * 2
    assert one["interfaces"] == other["interfaces"] == {"lo"}, "who meets on loopback stays there"
    assert math.isnan(one["lost"])
    assert math.isnan(other["lost"]), "a gradient that one rank lost is lost on all"


# -- updates ---------------------------------------------------------------------------------------

BATCH = 7  # trajectories of 3 learned steps: the shares of two ranks differ


def _updates(
    rank: int,
    count: int,
    addresses: Any,
    config: Config,
    batches: list[Scored],
    warm_up: Trajectory,
    slow: bool,
) -> dict[str, Any]:
    learner = Learner(config)
    if count > 1:
        join(learner, rank, count, addresses)
    learner.make_pool(warm_up)
    if slow:  # AdamW's first step is the sign of the gradient: compare gradients, not steps
        learner._optimizer.adamw = torch.optim.SGD(learner._optimizer.parameters, lr=1.0)
    metrics = [learn(learner, batch) for batch in batches]
    gradients = [
        parameter.grad.clone()
        for parameter in learner._optimizer.parameters
        if parameter.grad is not None
    ]
    weights, before = learner.weights(), learner.snapshot()
    learner.restore(before, warm_up)
    again = learn(learner, batches[0])
    return {
        "metrics": metrics, "digest": weights.digest, "version": weights.version,
        # As arrays: a tensor would be gone with the process that shares it.
        "state": {name: tensor.numpy() for name, tensor in weights.state.items()},
        "gradients": [gradient.numpy() for gradient in gradients],
        "again": learner.weights().digest, "kl": again["kl"],
    }  # fmt: skip


def material(config: Config, count: int) -> tuple[list[Scored], Trajectory]:
    trajectory = collect(config, Learner(config))
    return [scored(trajectory[:BATCH], estimator=config.estimator)] * count, trajectory


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal rows of metrics, up to rounding; the digest of the weights knows no rounding."""
    assert one.keys() == other.keys()
    assert one["batch"] == other["batch"]
    for key in one.keys() - {"batch", "weights"}:
        assert other[key] == pytest.approx(one[key], rel=2e-3, abs=2e-5, nan_ok=True), key


@pytest.mark.parametrize("name", ["pathwise", pytest.param("vtrace", marks=pytest.mark.long)])
def test_two_ranks_make_the_update_of_one(together: Together, name: str) -> None:
    config = tiny.config(
        estimator={"name": name},
        learner={
            "minibatches": 1, "microbatch": 5, "kl_states": 7, "anchor_weight": 100.0,
            "anchor_states": 4,
        },
    )  # fmt: skip
    arguments = (config, *material(config, 1), True)
    alone = _updates(0, 1, None, *arguments)
    one, other = together(_updates, *arguments)
    assert one["digest"] == other["digest"] != alone["digest"]
    # As text: with one minibatch of fresh rows the movement is not known, and NaN does not equal
    # itself.
    assert str((one["metrics"], one["again"])) == str((other["metrics"], other["again"]))
    size = max(np.abs(gradient).max() for gradient in alone["gradients"])
    assert size > 0
    for shared, whole in zip(one["gradients"], alone["gradients"], strict=True):
        np.testing.assert_allclose(shared, whole, atol=1e-5 * size, rtol=1e-4)
    for key, array in alone["state"].items():
        np.testing.assert_allclose(one["state"][key], array, atol=1e-6, rtol=1e-4)
    close(alone["metrics"][0], one["metrics"][0])
    assert one["metrics"][0]["kl"] == pytest.approx(0, abs=1e-9)
    assert one["kl"] == pytest.approx(alone["kl"], rel=1e-3)
    assert one["kl"] > 1e-6, "the pool is shared, too"
    assert one["metrics"][0]["anchor_kl"] > 1e-6


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_ranks_stay_together_over_many_steps(together: Together, dtype: str) -> None:
    config = tiny.config(
        learner={"minibatches": 3, "microbatch": 5, "kl_states": 7}, model={"dtype": dtype}
    )
    one, other = together(_updates, config, *material(config, 4), False)
    assert one["digest"] == other["digest"]
    assert one["again"] == other["again"] != one["digest"]
    assert one["metrics"] == other["metrics"]
    floor = one["metrics"][0]["kl_floor"]
    assert (floor > 0) == (dtype == "fp16"), "measured by both together, each its share"
    assert floor == pytest.approx(
        _updates(0, 1, None, config, *material(config, 1), False)["metrics"][0]["kl_floor"]
    )
    assert one["version"] == 4
    assert [row["skipped_steps"] for row in one["metrics"]] == [0] * 4


def _one_is_poisoned(
    rank: int, count: int, addresses: Any, config: Config, batch: Scored, warm_up: Trajectory
) -> Any:
    learner = Learner(config)
    join(learner, rank, count, addresses)
    learner.make_pool(warm_up)
    before = learner.weights().digest
    if rank == 1:
        batch.action_gradients.fill_(math.nan)
    skipped = learn(learner, batch)["skipped_steps"]
    assert learner.weights().digest == before
    if rank == 1:  # a bit that flipped in one rank's memory
        learner._optimizer.parameters[0].data[0, 0] += 1
    batch.action_gradients.fill_(1.0)
    with pytest.raises(TrainingError, match=r"the weights of learner ranks 1 of 2 differ"):
        learn(learner, batch)
    return skipped


def test_what_goes_wrong_on_one_rank_is_noticed_on_all(together: Together) -> None:
    config = tiny.config(learner={"minibatches": 1})
    (batch,), warm_up = material(config, 1)
    assert together(_one_is_poisoned, config, batch, warm_up) == [1, 1]


def test_more_ranks_than_pairs(together: Together) -> None:
    config = tiny.config(learner={"minibatches": 50, "kl_states": 1})
    (batch,), warm_up = material(config, 1)
    one, other = together(_updates, config, [scored(batch.trajectory[:1])], warm_up, False)
    assert one["digest"] == other["digest"]
    assert one["metrics"] == other["metrics"]
