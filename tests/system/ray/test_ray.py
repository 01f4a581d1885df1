"""The same run on Ray: the same bits, also when a rollout actor is killed in the middle; and errors
in one line.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
import torch

from actors.images import ModelVariant
from cluster import connection, environment, images, placement, program, zero_copy
from cluster.elastic_rollouts import ElasticRollouts
from experiments.benchmarks import scale
from experiments.benchmarks.stand_ins import Size
from experiments.evaluation.image_cache import cached
from learner.events import Event
from rl_unlearn.errors import MachineError, UserError
from rl_unlearn.evaluation.images import plan
from rl_unlearn.prompts import PromptBook

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "rollout": {"actors": 2, "batch": 4},
    "loop": {"rounds": 3, "pipeline": 1, "timeout": 600.0, "heartbeat": 300.0},
}
RAY = {"cluster": {"inline": False, "actor_cpus": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One private Ray for all tests here, instead of one for each run."""
    import ray

    with environment.setting(zero_copy.variables()):
        ray.init(
            address="local",
            num_cpus=2,
            labels={"pool": "here"},
            include_dashboard=False,
            log_to_driver=False,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "ray_cluster", lambda _: contextlib.nullcontext())
        yield
    ray.shutdown()


Events = list[tuple[str, dict[str, Any]]]


def train(**changes: Any) -> tuple[Any, Events]:
    events: Events = []
    return program.train(tiny.config(**(SETTINGS | changes)), tiny.into(events)), events


@pytest.fixture(scope="module")
def inline() -> tuple[Any, Events]:
    return train()


def test_ray_gives_the_bits_of_the_inline_run(inline):
    expected, alone = inline
    result, events = train(**RAY)
    assert tiny.versions(events) == tiny.versions(alone)
    assert len(set(tiny.versions(events))) == 3
    assert result.digest == expected.digest
    assert (result.images, result.updates, result.policy_version) == (
        expected.images,
        expected.updates,
        expected.policy_version,
    )
    assert [row["round"] for name, row in events if name == "round"] == [1, 2, 3]


def test_two_learner_ranks_learn_what_one_does(inline):
    _, alone = inline
    result, together = train(**RAY, learner={"ranks": 2})
    assert result.updates == 3
    assert len(set(tiny.versions(together))) == 3
    one, two = ([row for name, row in events if name == "round"] for events in (alone, together))
    assert [row["skipped_steps"] for row in two] == [0, 0, 0]
    assert two[-1]["kl"] > 1e-6, "the policy has moved"
    for key in ("loss", "grad_norm", "kl", "step_kl", "log_ratio_quantiles", "kl_weight", "lr"):
        for alone_row, row in zip(one, two, strict=True):
            assert row[key] == pytest.approx(alone_row[key], rel=0.02, abs=1e-4), (
                key,
                row["round"],
            )


def test_tensors_of_an_answer_lie_in_shared_memory():
    import ray

    class Sender:
        def send(self) -> torch.Tensor:
            return torch.ones(2**18)

    reference = ray.remote(num_cpus=0)(Sender).remote().send.remote()
    one, other = ray.get(reference), ray.get(reference)
    assert torch.equal(one, torch.ones(2**18))
    assert one.data_ptr() == other.data_ptr()


def test_the_loop_is_measured_on_stand_ins():
    config = scale.configuration(3, ["selection.images=8", "loop.timeout=600"])
    row = scale.loop(config, Size((1, 2, 2), 3, torch.bfloat16), 0.1)
    assert row["actors"] == 3
    assert row["efficiency"] > 0
    assert {"ray::ReplayActor", "ray::Sleepers"} <= row["cpu_seconds_per_image_by_process"].keys()


@pytest.mark.long
def test_two_image_actors_share_the_images_of_one(tmp_path):
    config = tiny.config(
        evaluation={"per_prompt": 3, "batch": 4, "actors": 2},
        cluster={"inline": False, "actor_cpus": 0.1},
        loop={"timeout": 600.0},
    )
    asked = plan(PromptBook.from_config(config), config)
    variant = ModelVariant(config.lora, None)
    found = {}
    for name, chosen in (
        ("shared", config),
        ("inline", config.model_copy(update={"cluster": tiny.config().cluster})),
    ):
        with images.image_source(chosen) as source:
            target = chosen.model_copy(update={"output": str(tmp_path / name)})
            drawings = cached(variant, asked, target, source)
        found[name] = [part.clone() for part in drawings.images()]
        assert drawings.drawn == 18
    assert [len(part) for part in found["shared"]] == [4, 4, 4, 4, 2]
    for shared, inline in zip(found["shared"], found["inline"], strict=True):
        assert torch.equal(shared, inline)


@pytest.mark.faults
def test_a_rollout_actor_killed_in_the_middle_changes_nothing(inline):
    killed: list[int] = []
    told: Events = []

    def emit(said: Event) -> None:
        name, row = said.name, said.row()
        told.append((name, row))
        if name == "round" and row["round"] == 1:
            for process in psutil.Process().children(
                recursive=True
            ):  # our own Ray's workers, no one else's
                with contextlib.suppress(psutil.NoSuchProcess):
                    if (
                        not killed
                        and process.cmdline()[:1]
                        and process.cmdline()[0].startswith("ray::RolloutActor")
                    ):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)

    result = program.train(tiny.config(**SETTINGS, **RAY), emit)
    assert killed, "no worker was found: the test has lost its point"
    expected, alone = inline
    assert tiny.versions(told) == tiny.versions(alone)
    assert result.digest == expected.digest


@pytest.mark.faults
def test_a_guest_that_is_killed_leaves_and_another_comes():
    """One of two rollout actors is a guest; when it dies, the other takes its work over until a new
    one comes.
    """
    import ray

    killed: list[int] = []
    guests: list[Any] = []
    told: list[Any] = []
    expected: list[Any] = []
    elastic: list[ElasticRollouts] = []

    class Watched(ElasticRollouts):
        def __init__(self, *args: Any):
            super().__init__(*args)
            elastic.append(self)

    def emit(said: Event) -> None:
        name, row = said.name, said.row()
        told.append((name, row))
        if name == "round":
            (rollouts,) = elastic
            met = time.monotonic() + 300
            while len(rollouts) < 2:
                assert time.monotonic() < met, "no guest has come"
                time.sleep(0.2)
            if not killed:
                pid = ray.get(rollouts[1].__ray_call__.remote(lambda _: os.getpid()))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                guests.append(rollouts[1])

    settings = {**SETTINGS, "rollout": {"actors": 2, "actors_min": 1, "batch": 2}}
    pool = {"inline": False, "actor_cpus": 0.1, "rollout_labels": {"pool": "in(here, there)"}}
    program.train(tiny.config(**settings), tiny.into(expected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "ElasticRollouts", Watched)
        program.train(tiny.config(**settings, cluster=pool), emit)
    assert len(killed) == 1
    assert guests[0] not in elastic[0].spare, "the dead one is still called"
    assert len(elastic[0].spare) == 1
    assert tiny.versions(told) == tiny.versions(expected)
    assert len(set(tiny.versions(told))) == 3


def test_an_error_in_a_constructor_is_one_line(tmp_path):
    folder = Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "broken"))
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError) as caught:
        program.train(tiny.config(**SETTINGS, **RAY, model={"path": str(folder)}), lambda *_: None)
    message = str(caught.value)
    assert "is no safetensors file" in message
    assert str(folder) in message
    assert "\n" not in message
    assert caught.value.exit_code == 5


def test_what_does_not_fit_the_cluster_is_said(monkeypatch):
    monkeypatch.setattr(placement, "PLACEMENT_SECONDS", 2)
    with pytest.raises(MachineError, match="cannot place") as caught:
        program.train(
            tiny.config(**SETTINGS, cluster={"inline": False, "actor_cpus": 50.0}), lambda *_: None
        )
    assert "\n" not in str(caught.value)


def test_a_label_that_no_node_has_is_named(monkeypatch):
    monkeypatch.setattr(placement, "PLACEMENT_SECONDS", 2)
    pool = {"inline": False, "actor_cpus": 0.1, "critic_labels": {"pool": "!here"}}
    with pytest.raises(MachineError) as caught:
        program.train(tiny.config(**SETTINGS, cluster=pool), lambda *_: None)
    message = str(caught.value)
    assert "no node of the cluster has the labels pool=!here (there are pool=here)" in message
    assert "\n" not in message
    assert caught.value.exit_code == 3
