"""Before the first update every importance ratio is exactly 1: the learner evaluates what the
rollout acted by.
"""

import pytest
import tiny
from tiny import quick  # noqa: F401
from tiny_batches import collect, first_ratios, learn, scored

from learner.learner import Learner

pytestmark = pytest.mark.usefixtures("quick")


def test_first_ratios_are_exactly_one_where_the_noise_is_predicted():
    assert first_ratios(tiny.config(model={"path": str(tiny.epsilon_folder())})) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "guidance", "images", "batch", "microbatch"),
    [
        ("fp32", 1.0, 8, 8, 8), ("fp32", 1.5, 12, 4, 7), ("fp32", 1.0, 9, 9, 64),
        ("fp16", 1.0, 12, 4, 7), ("fp16", 1.5, 9, 9, 64),
        ("bf16", 1.0, 9, 9, 64), ("bf16", 1.5, 12, 4, 7),
    ],
)  # fmt: skip
def test_first_ratios_are_exactly_one(dtype, guidance, images, batch, microbatch):
    config = tiny.config(
        model={"dtype": dtype},
        sampler={"guidance": guidance},
        rollout={"images": images, "batch": batch},
        learner={"batch": images, "microbatch": microbatch},
    )
    assert first_ratios(config) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "guidance", "images", "batch", "microbatch"),
    [("fp32", 1.0, 32, 32, 64), ("fp16", 1.5, 12, 6, 5), ("bf16", 1.0, 16, 8, 64)],
)
def test_first_ratios_are_exactly_one_on_the_canvas(dtype, guidance, images, batch, microbatch):
    config = tiny.config(
        model={"path": "canvas", "dtype": dtype},
        sampler={"guidance": guidance, "steps": 3},
        rollout={"images": images, "batch": batch},
        learner={"batch": images, "microbatch": microbatch},
    )
    assert first_ratios(config) == (1.0, 1.0)


def test_ratios_are_no_longer_one_after_an_update():
    config = tiny.config(learner={"minibatches": 2})
    learner = Learner(config)
    batch = scored(collect(config, learner))
    learn(learner, batch)
    metrics = learn(learner, batch)
    assert metrics["policy_lag_max"] == 1
    assert metrics["first_ratio_min"] < 1.0 < metrics["first_ratio_max"]
    assert 0 < metrics["ess"] <= 1
    low, middle, high = metrics["log_ratio_quantiles"]
    assert low < middle < high
    assert low < 0
