"""Memory: what is freed or shared, checkpointed activations, and a GPU that is too small."""

from typing import Any

import pytest
import tiny
import tiny_families
import torch
from tiny import quick  # noqa: F401

from actors.critic import CriticActor
from actors.images import ImageActor, ModelVariant
from actors.rollout import RolloutActor
from cluster import program
from learner import checkpointing
from learner.learner import Learner
from rl_unlearn.errors import MachineError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.messages import Request
from rl_unlearn.policy import DiffusionPolicy

FAMILIES = tiny_families.KINDS


def config(name: str, **changes: Any) -> Any:
    model = {"path": str(tiny_families.FOLDERS[name]()), "size": tiny_families.SIZE} | changes.pop(
        "model", {}
    )
    return tiny.config(model=model, **changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_no_bit_of_a_run(name: str) -> None:
    found = []
    for setting in ("off", "on"):
        events: list[tuple[str, dict[str, Any]]] = []
        chosen = config(name, learner={"checkpointing": setting}, loop={"rounds": 2})
        program.train(chosen, tiny.into(events))
        found.append(tiny.versions(events))
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_keeps_less_for_the_backward_pass(name: str) -> None:
    chosen = config(name, sampler={"guidance": 2.0})
    policy = DiffusionPolicy(load_pipeline(chosen.model), chosen)
    condition = policy.encode(["a cat"])
    whole = checkpointing.kept_for_backward(policy, condition)
    policy.network.enable_gradient_checkpointing()
    assert 0 < checkpointing.kept_for_backward(policy, condition) < 0.6 * whole


@pytest.mark.parametrize(("setting", "expected"), [("on", True), ("off", False), ("auto", False)])
def test_on_a_cpu_it_is_as_asked(setting: str, expected: bool, quick: None) -> None:  # noqa: F811
    learner = Learner(tiny.config(learner={"checkpointing": setting}))
    assert learner.policy.network.is_gradient_checkpointing == expected


def test_a_microbatch_fits_or_not() -> None:
    assert checkpointing.fits(image=1 << 30, microbatch=8, free=16 << 30)
    assert not checkpointing.fits(image=1 << 30, microbatch=16, free=16 << 30)


def test_one_process_holds_the_frozen_weights_once(quick: None) -> None:  # noqa: F811
    learner, actor = Learner(tiny.config()), RolloutActor(tiny.config())
    before = actor.sample(Request(1, (0, 1, 2), 0), learner.weights())
    actor.share_frozen(learner.policy)
    ours, theirs = (
        dict(policy.network.named_parameters()) for policy in (actor._policy, learner.policy)
    )
    shared = {name for name in ours if ours[name].data_ptr() == theirs[name].data_ptr()}
    assert shared == {name for name in ours if ".lora_" not in name}
    after = actor.sample(Request(1, (0, 1, 2), 0), learner.weights())
    assert torch.equal(before.latents, after.latents)


def test_parts_that_are_not_needed_any_more_are_freed(quick: None) -> None:  # noqa: F811
    learner, actor = Learner(tiny.config()), RolloutActor(tiny.config())
    assert learner.policy.family.text_encoders() == actor._policy.family.text_encoders() == {}
    assert learner.policy.family.pipeline.vae is None
    assert actor._policy.family.pipeline.vae is not None


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_networks_are_loaded_in_their_storage_type(name: str, dtype: str) -> None:
    chosen = config(name, model={"dtype": dtype})
    pipeline = load_pipeline(chosen.model)
    policy = DiffusionPolicy(pipeline, chosen)
    expected = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    frozen = {p.dtype for n, p in policy.network.named_parameters() if ".lora_" not in n}
    assert (
        frozen
        == {expected}
        == {next(e.parameters()).dtype for e in policy.family.text_encoders().values()}
    )
    assert (
        {p.dtype for p in policy.parameters()}
        == {next(pipeline.vae.parameters()).dtype}
        == {torch.float32}
    )
    assert {t.dtype for t in policy.encode(["a cat"]).tensors.values()} == {expected}


def test_a_gpu_that_is_too_small_is_one_line(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 24 GiB"
        )

    chosen = tiny.config()
    learner, actor, critic = Learner(chosen), RolloutActor(chosen), CriticActor(chosen)
    batch = actor.sample(Request(1, tuple(range(6)), 0), learner.weights())
    retained = batch[~learner._target[batch.prompts]]
    assert len(retained)
    images = ImageActor(chosen)
    scores = critic.score(batch, 0)
    monkeypatch.setattr(DiffusionPolicy, "_guided", full)
    monkeypatch.setattr("actors.critic.valued_gradients", full)
    for call, setting in (
        (lambda: actor.sample(Request(1, (0, 1), 0), learner.weights()), "rollout.batch"),
        (lambda: actor.validate((0, 1), 0, learner.weights()), "rollout.batch"),
        (lambda: learner.update(batch, scores), "learner.checkpointing=on"),
        (lambda: learner.make_pool(retained), "learner.microbatch"),
        (lambda: critic.score(batch, 0), "critic.minibatch"),
        (
            lambda: images.draw(ModelVariant(chosen.lora, None), ("a cat",), (1,)),
            "evaluation.batch",
        ),
    ):
        with pytest.raises(
            MachineError, match=rf"not enough GPU memory \(CUDA out of memory\): .*{setting}"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)
