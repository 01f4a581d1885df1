"""Rewards that see nothing but the image: by name only, checked, and part of what is learned."""

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401
from transformers import ViTConfig, ViTForImageClassification

from actors.rollout import RolloutActor
from experiments.settings import load
from learner.learner import Learner
from rl_unlearn import image_rewards
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.messages import Request
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import outcome_names, reward_weights

pytestmark = pytest.mark.usefixtures("quick")


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


def test_noise_takes_more_kilobytes_than_one_colour():
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat, noisy = image_rewards.jpeg_kilobytes(
        torch.cat([torch.full((1, 3, 16, 16), 0.5), noise])
    ).tolist()
    assert 0.1 < flat < noisy < 4


@pytest.mark.parametrize(
    "name",
    ["os:system", "jpeg_kilobyte", "experiments.verbs.train:run", "classifier:", "classifier:x"],
)
def test_a_name_nobody_registered_is_never_imported(name):
    with pytest.raises(
        ConfigError, match=r"reward.images: '.*' (is no registered reward|must be classifier)"
    ):
        image_rewards.find(tiny.config(reward={"images": {name: 1.0}}), {})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (torch.zeros(2, 1), "shape"),
        (torch.zeros(3), "shape"),
        (torch.tensor([1.0, float("nan")]), "NaN"),
        (5.0, "shape"),
    ],
)
def test_a_reward_must_be_one_finite_number_an_image(found, said):
    with pytest.raises(
        TrainingError, match=f"'mine' must give one finite number for each of 2 images.*{said}"
    ):
        image_rewards.evaluate({"mine": lambda images: found}, torch.zeros(2, 3, 4, 4))


def test_weights_count_on_every_prompt():
    config = tiny.config(reward={"images": {"jpeg_kilobytes": -2.0, "mine": 0.5}})
    book = PromptBook.from_config(config)
    weights = reward_weights(book, config.reward, (1,))
    assert outcome_names(book, config.reward)[-2:] == ("image jpeg_kilobytes", "image mine")
    assert weights[:, -2:].tolist() == [[-2.0, 0.5]] * len(book.prompts)
    plain = reward_weights(book, tiny.config().reward, (1,))
    assert torch.equal(weights[:, :-2], plain)


def test_a_function_from_the_caller_is_part_of_the_reward():
    plain, config = tiny.config(), tiny.config(reward={"images": {"mine": 3.0}})
    weights = Learner(plain).weights()
    request = Request(1, (0, 3), 0)
    one, other = (
        RolloutActor(plain).sample(request, weights),
        RolloutActor(config, {"mine": brightness}).sample(request, weights),
    )
    images = RolloutActor(plain)._policy.decode(one.latents[:, -1])
    torch.testing.assert_close(other.rewards - one.rewards, 3 * brightness(images))
    torch.testing.assert_close(other.outcomes[:, -1], brightness(images))


def test_a_mapping_can_be_given_on_the_command_line():
    config = load(overrides=["reward.images={jpeg_kilobytes: -2.0}"])
    assert config.reward.images == {"jpeg_kilobytes": -2.0}
    with pytest.raises(ConfigError, match=r"reward\.images"):
        load(overrides=["reward.images=jpeg_kilobytes"])


def test_a_whole_run_follows_it(tmp_path):
    # Rewarded for brightness alone, the images become brighter.
    from cluster.program import train

    config = tiny.config(
        reward={
            "images": {"mine": 20.0},
            "forget": 0.0,
            "coherence": 0.0,
            "presence": 0.0,
            "retain": 0.0,
        },
        estimator={"name": "pathwise"},
        learner={"lr": 1e-2, "kl_budget": 100.0, "step_kl": 100.0},
        critic={"warmup_images": 32, "warmup_steps": 60, "steps": 8, "minibatch": 32},
        loop={"rounds": 6},
    )
    rewards: list[float] = []
    train(
        config,
        lambda event: rewards.append(event.reward) if event.name == "round" else None,
        image_rewards={"mine": brightness},
    )
    assert rewards[-1] > rewards[0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    network = ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=16, patch_size=8,
            id2label={0: "cat", 1: "dog", 2: "nothing"},
            label2id={"cat": 0, "dog": 1, "nothing": 2},
        )
    )  # fmt: skip
    network.save_pretrained(folder)
    return folder


def test_a_classifier_gives_the_log_probability_of_its_label(classifier):
    network = ViTForImageClassification.from_pretrained(classifier)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    name = f"classifier:{classifier}:dog"
    found = image_rewards.evaluate(
        image_rewards.find(tiny.config(reward={"images": {name: 1.0}}), {}), images
    )
    with torch.no_grad():
        expected = network((images - 0.5) / 0.5).logits.log_softmax(dim=1)[:, 1]
    torch.testing.assert_close(found[:, 0], expected)


def test_the_judge_never_rewards(classifier):
    config = tiny.config(
        reward={"images": {f"classifier:{classifier}:dog": 1.0}},
        evaluation={"judge": str(classifier.parent)},
    )
    with pytest.raises(ConfigError, match="is the judge"):
        image_rewards.find(config, {})


@pytest.mark.parametrize(
    "name", ["classifier:", "classifier:folder", "classifier::dog", "classifier:folder:"]
)
def test_a_classifier_needs_folder_and_label(name):
    with pytest.raises(ConfigError, match="must be classifier:FOLDER:LABEL"):
        image_rewards.find(tiny.config(reward={"images": {name: 1.0}}), {})
