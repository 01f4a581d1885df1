"""Places, labels and the crew, without Ray's help where it is not needed."""

from typing import Any

import pytest
import tiny
from pydantic import ValidationError

from cluster import placement, program
from cluster.placement import Place
from rl_unlearn.errors import ConfigError


def test_every_actor_has_its_place():
    config = tiny.config(
        rollout={"actors": 4, "actors_min": 2},
        learner={"ranks": 2},
        cluster={
            "actor_cpus": 0.5,
            "rollout_gpus": 0.25,
            "learner_gpus": 1.0,
            "critic_labels": {"pool": "critics"},
        },
    )
    found = placement.places(config)
    assert found.rollouts == [Place({"CPU": 0.5, "GPU": 0.25}, {})] * 2
    assert found.critic == Place({"CPU": 0.5}, {"pool": "critics"})
    assert found.learners == [Place({"CPU": 0.5, "GPU": 1.0}, {})] * 2
    assert found.replay == Place({"CPU": 0.5}, {})
    assert found.all == [*found.rollouts, found.critic, *found.learners, found.replay]


@pytest.mark.parametrize(
    ("wish", "there", "fit"),
    [
        ("big", "big", True), ("big", "small", False), ("big", None, False),
        ("!big", "small", True), ("!big", "big", False), ("!big", None, True),
        ("in(big, huge)", "huge", True), ("in(big,huge)", "big", True),
        ("in(big, huge)", "small", False),
        ("!in(big, huge)", "huge", False), ("!in(big, huge)", "small", True),
    ],
)  # fmt: skip
def test_selectors_are_read_as_ray_reads_them(wish: str, there: str | None, fit: bool):
    from ray._private.label_utils import validate_label_selector

    assert validate_label_selector({"pool": wish}) is None
    tiny.config(cluster={"rollout_labels": {"pool": wish, "ray.io/accelerator-type": "H100"}})
    assert placement.fits({} if there is None else {"pool": there}, {"pool": wish}) == fit


@pytest.mark.parametrize(
    "labels",
    [{"pool": "in()"}, {"pool": "two words"}, {"-pool": "a"}, {"pool": "!!a"}, {"a/b/c": "d"}],
)
def test_what_is_no_selector_is_refused(labels: dict[str, str]):
    with pytest.raises(ValidationError):
        tiny.config(cluster={"rollout_labels": labels})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner": {"ranks": 2}}, "learner.ranks 2 needs Ray"),
        ({"rollout": {"actors_min": 2}}, "rollout.actors_min 2"),
        ({"sampler": {"eta": 0.5}}, r"sampler\.eta=0\.5 has other states .*critic\.renoised=0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        program.train(tiny.config(**changes), lambda *_: None)
    assert "\n" not in str(caught.value)
