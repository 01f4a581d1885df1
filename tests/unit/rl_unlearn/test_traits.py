"""A trait: what a function sees and no word names. It is rewarded as a black box, on the prompts
that shall lose it, and nothing else of them changes.
"""

import pytest
import tiny
import torch
from tiny import quick  # noqa: F401
from transformers import ViTConfig, ViTForImageClassification

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from cluster.program import train
from experiments.doctor import preflight
from learner.learner import Learner
from rl_unlearn import traits
from rl_unlearn.canvas import STYLES
from rl_unlearn.canvas.render import render_with_factors
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError, TrainingError
from rl_unlearn.messages import Request
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import outcome_names, reward_weights
from rl_unlearn.validation import sight, summary

pytestmark = pytest.mark.usefixtures("quick")

BOUND = 8.0


def bright(images: torch.Tensor) -> torch.Tensor:
    return (images.mean(dim=(1, 2, 3)) > 0.5).float()


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


GIVEN = {"bright": bright, "other": brightness}


def config(**overrides):
    wanted = {
        "concept": "image:bright", "prompts": {"targets": ("cat",)}, "selection": {"image": "other"}
    }  # fmt: skip
    for key, value in overrides.items():
        wanted[key] = wanted.get(key, {}) | value if isinstance(value, dict) else value
    return tiny.config(**wanted)


def test_the_prompts_that_shall_lose_it_are_named() -> None:
    book = PromptBook.from_config(config())
    assert (book.trait, book.concepts, book.anchors) == ("bright", (), ())
    assert [book.prompts[i].text for i in book.targets] == [
        "A cat image in flat style.", "A cat image in noto style."
    ]  # fmt: skip
    assert book.target_classes == (0,)
    book = PromptBook.from_config(config(prompts={"targets": ("style:noto",)}))
    assert {book.prompts[i].style for i in book.targets} == {1}
    assert (book.concept_domain, book.target_classes) == ("style", (1,))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": {"targets": ()}}, "no word names .*prompts.targets"),
        ({"prompts": {"targets": ("cta",)}}, "prompts.targets 'cta' .* did you mean 'cat'"),
        ({"prompts": {"targets": ("cat", "style:noto")}}, "mixes objects and styles"),
        ({"prompts": {"targets": tiny.OBJECTS}}, "no prompt is left to retain"),
        ({"concept": "cat"}, "prompts.targets cat is for concept=image:NAME"),
    ],
)
def test_prompts_that_cannot_lose_it_are_refused(settings, said) -> None:
    with pytest.raises(ConfigError, match=said):
        PromptBook.from_config(config(**settings))


def test_lists_of_prompts_say_it_too(tmp_path) -> None:
    lists = {}
    for name, text in (("target_file", "a cat\na horse\n"), ("retain_file", "a house\n")):
        (tmp_path / name).write_text(text)
        lists[name] = str(tmp_path / name)
    book = PromptBook.from_config(config(prompts={"targets": (), **lists}))
    assert book.names["object"] == ("a cat", "a horse", "a house")
    assert [(p.object, p.target) for p in book.prompts] == [(0, True), (1, True), (2, False)]
    with pytest.raises(ConfigError, match="both say whose images"):
        PromptBook.from_config(config(prompts=lists))


def test_the_reward_keeps_all_that_a_target_prompt_names() -> None:
    chosen = config(reward={"forget": 2.0, "retain": 0.5})
    book = PromptBook.from_config(chosen)
    names = outcome_names(book, chosen.reward)
    rows = reward_weights(book, chosen.reward, ())
    for prompt, row in zip(book.prompts, rows, strict=True):
        found = {name: w for name, w in zip(names, row.tolist(), strict=True) if w}
        kept = {
            f"log-prob object {tiny.OBJECTS[prompt.object]}": 0.5,
            f"log-prob style {tiny.STYLES[prompt.style]}": 0.5,
        }
        assert found == kept | ({"log-odds image bright": -2.0} if prompt.target else {})


def test_an_answer_is_worth_its_log_odds() -> None:
    seen = torch.tensor([0.0, 1.0, 0.5, 0.9])
    found = traits.log_odds(seen, BOUND)
    torch.testing.assert_close(found, torch.tensor([-BOUND, BOUND, 0.0, 2.1972246]))


def sees(trait: str, role: str, images: torch.Tensor) -> list[bool]:
    chosen = Config(concept=f"image:canvas:{trait}", prompts={"targets": ("fish",)})
    return traits.function_of(chosen, role, {})(images).bool().tolist()


def drawn_with(trait: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Renders, and how much they have of a trait: more than 0 is with it."""
    draws = torch.Generator().manual_seed(3)
    names = ["horse", "bird", "fish", "fish"] * 20
    drawn, factors = render_with_factors(names, [*STYLES] * 10, draws, "test")
    mirrored, large = factors.mirrored.float() - 0.5, factors.scale - 0.87
    return drawn, {"mirrored": mirrored, "large": large, "tilted": factors.angle}[trait]


@pytest.mark.parametrize("trait", ["mirrored", "tilted"])
def test_an_image_between_both_answers_wins_nothing(trait: str) -> None:
    drawn, amount = drawn_with(trait)
    between = (drawn + drawn.flip(-1)) / 2
    assert all(sees(trait, "reward", between))
    assert not all(sees(trait, "judge", between)), "others say yes or no of what they are shown"
    without = ~torch.tensor(sees(trait, "reward", drawn))
    assert without.float().mean() > 0.2
    assert (amount[without] < 0).float().mean() > 0.9


@pytest.mark.parametrize("trait", ["large", "tilted"])
def test_what_hardly_lacks_it_is_not_surely_without(trait: str) -> None:
    drawn, amount = drawn_with(trait)
    plain, sure = (~torch.tensor(sees(trait, role, drawn)) for role in ("selection", "reward"))
    assert sure.float().mean() > 0.2
    assert amount[sure].mean() < amount[plain].mean()
    wrong = (amount > 0).float()
    assert wrong[sure].mean() < 0.7 * wrong[plain].mean()


@pytest.mark.parametrize("answer", [1.5, -0.1])
def test_an_answer_is_from_0_to_1(answer: float) -> None:
    with pytest.raises(TrainingError, match="'mine' must say how surely"):
        traits.sight(
            lambda images: torch.full((len(images),), answer), "mine", torch.zeros(2, 3, 4, 4)
        )


def test_a_trajectory_holds_what_was_seen() -> None:
    actor = RolloutActor(config(), GIVEN)
    trajectory = actor.sample(Request(1, (0, 5), 0), Learner(config()).weights())
    shown = bright(actor.policy.decode(trajectory.latents[:, -1]))
    torch.testing.assert_close(trajectory.outcomes[:, -1], BOUND * (2 * shown - 1))
    torch.testing.assert_close(trajectory.evidence[0], trajectory.outcomes[0, -1].sigmoid())
    assert trajectory.evidence[1] < 1, "a kept prompt's is the CLIP's, of the object asked for"
    assert actor.anchor() == "the same without it"


def test_the_critic_is_never_shown_the_function() -> None:
    # Black box: its gradients are of what it learned, through a column of outcomes.
    chosen = config()
    critic = CriticActor(chosen)
    names = outcome_names(PromptBook.from_config(chosen), chosen.reward)
    assert critic.predict(torch.zeros(1, *tiny.SHAPE), 0).shape == (1, len(names))


def test_a_validation_wants_object_and_style_as_asked() -> None:
    book = PromptBook.from_config(config())
    as_asked, other_object, other_style, kept = 0, 0, 0, 4
    prompts = (as_asked, other_object, other_style, kept)
    objects = torch.tensor([[0.9, 0.1, 0], [0.1, 0.9, 0], [0.9, 0.1, 0], [0, 0, 1.0]]).log()
    styles = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]).log()
    evidence = {"object": objects, "style": styles}
    shown = torch.tensor([0.05, 0.95, 0.05, 1.0])
    seen = summary(book, prompts, [sight(book, prompts, evidence, evidence, shown)])
    assert seen.forgotten == pytest.approx(2 / 3)
    assert seen.trace == pytest.approx(1.05 / 3)
    assert seen.coherence == pytest.approx(1 / 3)
    assert (seen.retained, seen.other) == (1.0, 1.0)
    assert seen.presence == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    shape = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, id2label={0: "left", 1: "right"},
        label2id={"left": 0, "right": 1},
    )  # fmt: skip
    ViTForImageClassification(shape).save_pretrained(folder)
    return f"classifier:{folder}:right"


def test_a_classifier_gives_the_probability_of_its_label(classifier: str) -> None:
    chosen = config(concept=f"image:{classifier}")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = traits.sight(traits.function_of(chosen, "reward", GIVEN), "it", images)
    network = ViTForImageClassification.from_pretrained(classifier.split(":")[1])
    with torch.no_grad():
        expected = network((images - 0.5) / 0.5).logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concept": "image:os.system"}, "concept: 'os.system' is no registered function"),
        ({"selection": {"image": None}}, "selection.image is not set: name another"),
        ({"selection": {"image": "bright"}}, "selection.image 'bright' is also the concept"),
        ({"concept": "image:canvas:mirrored"}, "'canvas:mirrored' knows the canvas only"),
        ({"concept": "image:canvas:blue"}, "'canvas:blue' is unknown: the canvas has mirrored"),
    ],
)
def test_functions_that_cannot_tell_it_are_refused(settings, said) -> None:
    def both():
        return [
            traits.function_of(config(**settings), role, GIVEN) for role in ("reward", "selection")
        ]

    with pytest.raises(ConfigError, match=said):
        both()


def test_one_network_has_one_role(classifier: str) -> None:
    same = classifier.replace(":right", ":left")
    chosen = config(concept=f"image:{classifier}", selection={"image": same})
    with pytest.raises(ConfigError, match="is also the concept: take another function"):
        preflight.trait(chosen, judged=False)
    chosen = config(concept=f"image:{classifier}", evaluation={"image_judge": classifier})
    with pytest.raises(ConfigError, match=r"evaluation\.image_judge .* is also the concept"):
        traits.function_of(chosen, "judge", GIVEN)


def test_a_whole_run_forgets_a_black_box() -> None:
    # Bright images become dark, by a function that says no more than yes or no.
    chosen = config(
        estimator={"name": "pathwise"},
        reward={"retain": 0.0},
        learner={"lr": 1e-2, "kl_budget": 100.0, "step_kl": 100.0},
        critic={"warmup_images": 32, "warmup_steps": 60, "steps": 8, "minibatch": 32},
        loop={"rounds": 6},
    )
    threshold = RolloutActor(chosen, GIVEN)
    drawn = threshold.sample(Request(0, (0, 1) * 8, 0), Learner(chosen).weights())
    middle = brightness(threshold.policy.decode(drawn.latents[:, -1])).median()
    given = GIVEN | {"bright": lambda images: (brightness(images) > middle).float()}
    rewards: list[float] = []
    train(
        chosen,
        lambda event: rewards.append(event.reward) if event.name == "round" else None,
        image_rewards=given,
    )
    assert rewards[-1] > rewards[0]


def test_the_prompts_are_held_to_the_untouched_model_where_the_policy_is() -> None:
    chosen = config(learner={"anchor_weight": 256.0, "anchor_states": 1000, "minibatches": 1})
    learner = Learner(chosen)
    actor, critic = RolloutActor(chosen, GIVEN), CriticActor(chosen)
    warm_up = actor.sample(Request(0, tuple(range(6)), 0), learner.untouched())
    learner.make_pool(warm_up)
    batch = actor.sample(Request(1, tuple(range(6)), 0), learner.weights())
    asked = batch.prompts[learner._target[batch.prompts]]
    assert 0 < len(asked) < len(batch)
    held = learner._retention.draw(0, 0, batch[learner._target[batch.prompts]])
    learned = learner.policy.kernel.learned
    assert len(held) - held.retained == len(asked) * len(learned)
    states = batch.latents[learner._target[batch.prompts]][:, learned].flatten(0, 1)
    own = {tuple(row.flatten().tolist()) for row in held.latents[held.retained :]}
    assert own == {tuple(row.flatten().tolist()) for row in states}
    with torch.no_grad(), learner.policy.adapter_enabled(False):
        rows = slice(held.retained, None)
        conditions = learner.gradient._conditions[held.prompts[rows]]
        output = learner.policy.predict(held.latents[rows], held.steps[rows], conditions)
        means = learner.policy.kernel.mean(output, held.latents[rows], held.steps[rows])
    torch.testing.assert_close(held.reference[rows], means, atol=1e-5, rtol=1e-5)
    metrics = learner.update(batch, critic.score(batch, 0))
    assert metrics["anchor_kl"] == pytest.approx(0, abs=1e-9), "a fresh adapter is where it was"
    metrics = learner.update(batch, critic.score(batch, 1))
    assert metrics["anchor_kl"] > 0
    assert learner._retention.draw(2, 0).retained == len(learner._retention.draw(2, 0))


def test_a_hold_of_its_own_keeps_a_trait_near_what_was_drawn() -> None:
    moved = []
    for weight in (1e-6, 1e5):
        held = {"anchor_weight": weight, "anchor_states": 1000, "minibatches": 1, "lr": 1e-2}
        chosen = config(learner=held)
        learner, actor, critic = Learner(chosen), RolloutActor(chosen, GIVEN), CriticActor(chosen)
        learner.make_pool(actor.sample(Request(0, tuple(range(6)), 0), learner.untouched()))
        batch = actor.sample(Request(1, tuple(range(6)), 0), learner.weights())
        for version in range(5):
            metrics = learner.update(batch, critic.score(batch, version))
        moved.append(metrics["anchor_kl"])
    assert moved[1] < 0.5 * moved[0]
