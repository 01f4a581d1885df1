"""A critic that another run starts from: the same bits, or one line that says why not."""

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401

from actors.critic import CriticActor
from cluster.program import train
from rl_unlearn.critic_file import FILE_NAME, CriticState, save_critic
from rl_unlearn.errors import DataError

pytestmark = pytest.mark.usefixtures("quick")


def nothing(event: object) -> None:
    """Takes every event."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    state = CriticActor(tiny.config(seed=3)).state()
    save_critic(folder, state)
    return folder, state


def test_a_critic_starts_where_the_other_ended(saved):
    folder, state = saved
    # Another seed and another concept: what a critic sees does not depend on what is to be
    # forgotten.
    actor = CriticActor(tiny.config(concept="dog", critic={"start": str(folder)}))
    again = actor.state()
    assert again.meaning == state.meaning
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in state.weights.items())
    other = CriticActor(tiny.config(concept="dog")).state()
    assert any(
        not torch.equal(other.weights[name], tensor) for name, tensor in state.weights.items()
    )


def test_its_mean_is_kept_through_the_warm_up(saved):
    folder, state = saved
    moved = CriticState(state.weights | {"mean": state.weights["mean"] + 1}, state.meaning)
    save_critic(folder, moved)
    config = tiny.config(critic={"start": str(folder), "warmup_steps": 0, "steps": 0})
    result = train(config, nothing)
    assert all(
        torch.equal(result.critic.weights[name], moved.weights[name]) for name in moved.weights
    ), "zero-shot"


def test_a_run_hands_its_critic_out_and_terminal_has_none():
    assert train(tiny.config(), nothing).critic.meaning.outcomes[0] == "log-odds object cat"
    assert train(tiny.config(estimator={"name": "terminal"}), nothing).critic is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"critic": {"layers": 2}}, "has another shape"),
        ({"prompts": {"objects": ("cat", "dog", "bird")}}, "predicts other outcomes"),
        ({"reward": {"images": {"jpeg_kilobytes": 1.0}}}, "predicts other outcomes"),
        ({"reward": {"bound": 3.0}}, "use its run's reward.bound"),
        ({"reward": {"clip": str(tiny.clip_folder(2))}}, "another reward CLIP"),
        ({"estimator": {"name": "critic_no_t"}}, "was told the timestep where this one is not"),
    ],
)
def test_a_critic_that_does_not_fit_is_refused(saved, overrides, said):
    folder, _ = saved
    config = tiny.config(
        **(overrides | {"critic": overrides.get("critic", {}) | {"start": str(folder)}})
    )
    with pytest.raises(DataError, match=said):
        CriticActor(config)


def test_missing_and_damaged_files_are_named(saved, tmp_path):
    with pytest.raises(DataError, match=f"holds no {FILE_NAME}"):
        CriticActor(tiny.config(critic={"start": str(tmp_path)}))
    whole = (saved[0] / FILE_NAME).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04pickle"):
        (tmp_path / FILE_NAME).write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"critic\.safetensors (is no safetensors file|has \d+ bytes)"
        ):
            CriticActor(tiny.config(critic={"start": str(tmp_path)}))
