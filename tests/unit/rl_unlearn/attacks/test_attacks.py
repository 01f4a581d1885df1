"""Attacks: gradients stay where they belong, words are real, weights survive, and a rate is what a
hand computes.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from experiments import settings
from experiments.__main__ import main
from experiments.runs import run_folder
from rl_unlearn import canvas
from rl_unlearn.adapters.adapter import digest, save_adapter
from rl_unlearn.attacks import inversion, relearning
from rl_unlearn.attacks.denoising import descend, draw, losses
from rl_unlearn.attacks.prefix import Vocabulary, random_prefix, search
from rl_unlearn.attacks.references import References, draw_references
from rl_unlearn.attacks.success import hits, rate
from rl_unlearn.attacks.table import DEFINITIONS, Bench
from rl_unlearn.attacks.wording import FREE, encode_free, token_ids, with_placeholder
from rl_unlearn.config import Attack, Model, Prompts
from rl_unlearn.errors import ConfigError
from rl_unlearn.evaluation.images import plan
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.noise import generator, seed_of
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook, spread

SMALL = {
    "images": 2, "references": 3, "draws": 6, "prefix_tokens": 2, "prefix_restarts": 2,
    "prefix_steps": 3,
    "inversion_steps": 3, "relearn_images": 4, "relearn_steps": (1, 2, 4), "relearn_rank": 2,
}  # fmt: skip
TEXT = "A cat image in flat style."


class World:
    """The tiny world with an adapter that has an effect, and references of its concept."""

    def __init__(self, **attack: object):
        self.config = tiny.config(attack=SMALL | attack)
        self.book = PromptBook.from_config(self.config)
        self.policy = DiffusionPolicy(tiny.load_quickly(self.config.model), self.config)
        source = torch.Generator().manual_seed(5)
        for parameter in self.policy.parameters():
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=source))
        self.references = draw_references(self.policy, self.book, self.book.targets, 3, 0, 64)

    @property
    def attack(self) -> Attack:
        return self.config.attack

    def source(self) -> torch.Generator:
        return generator(0, "test")

    def search(self, microbatch: int = 64):
        words = Vocabulary(self.policy.family.pipeline)
        own = self.references.of(self.book.targets[0])
        return search(self.policy, words, TEXT, own, self.attack, self.source(), microbatch)

    def invert(self):
        return inversion.invert(
            self.policy, self.book, self.references, self.attack, self.source(), 64
        )

    def relearn(self, unlearned: bool = True):
        return relearning.relearn(
            self.policy,
            self.book,
            self.references,
            self.attack,
            (0, "test"),
            64,
            unlearned=unlearned,
        )

    def weights(self) -> str:
        """SHA-256 of every frozen weight and of the adapter: all tensors of the UNet, text encoder
        and autoencoder.

        peft keeps its empty wrapper around a layer whose last adapter is deleted; the weight has a
        longer name then.
        """
        sha = hashlib.sha256(digest(self.policy.adapter_state()).encode())
        for part in (
            self.policy.network,
            self.policy.family.pipeline.text_encoder,
            self.policy.family.pipeline.vae,
        ):
            for name, tensor in part.state_dict().items():
                sha.update(name.replace(".base_layer.", ".").encode())
                sha.update(tensor.detach().cpu().numpy().tobytes())
        return sha.hexdigest()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


# -- prompts with free vectors ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["canvas", "tiny"])
def test_a_prompt_without_free_vectors_is_what_the_pipeline_reads(path: str) -> None:
    policy = World().policy
    if path == "canvas":
        config = tiny.config(model={"path": "canvas"})
        policy = DiffusionPolicy(load_pipeline(Model()), config)
    rows = [token_ids(policy.family.pipeline, text) for text in (TEXT, "A dog image.")]
    nothing = torch.zeros(0, policy.family.pipeline.text_encoder.config.hidden_size)
    expected = policy.encode([TEXT, "A dog image."])
    assert torch.equal(encode_free(policy.family.pipeline, rows, nothing).text, expected.text)


def test_free_vectors_stand_in_reading_order(world: World) -> None:
    pipeline = world.policy.family.pipeline
    table = pipeline.text_encoder.get_input_embeddings().weight
    first, second = token_ids(pipeline, "a cat"), token_ids(pipeline, "dog")
    rows = [[FREE, first[1], FREE, *first[3:]], [second[0], FREE, second[2]]]
    vectors = table[[first[0], first[2], second[1]]]
    assert torch.equal(
        encode_free(pipeline, rows, vectors).text, world.policy.encode(["a cat", "dog"]).text
    )
    assert not pipeline.text_encoder.get_input_embeddings()._forward_hooks


def test_the_hook_goes_when_the_text_encoder_fails(world: World) -> None:
    pipeline = world.policy.family.pipeline
    with pytest.raises(RuntimeError):
        encode_free(pipeline, [[FREE, FREE]], torch.zeros(1, 16))
    assert not pipeline.text_encoder.get_input_embeddings()._forward_hooks


def test_the_placeholder_takes_the_place_of_whole_words(world: World) -> None:
    pipeline = world.policy.family.pipeline
    ids = with_placeholder(pipeline, "A Cat and a cat, no catfish", "cat")
    assert ids == [
        *token_ids(pipeline, "A"), FREE, *token_ids(pipeline, "and a"), FREE,
        *token_ids(pipeline, ", no catfish")
    ]  # fmt: skip
    assert with_placeholder(pipeline, "a dog", "cat") == [FREE, *token_ids(pipeline, "a dog")]
    assert with_placeholder(pipeline, "a c.t", "c.t")[-1] == FREE
    assert FREE not in with_placeholder(pipeline, "a cat", "c.t")[1:], "the word is no pattern"


def test_a_prompt_that_does_not_fit_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="reads 30"):
        encode_free(world.policy.family.pipeline, [[1] * 31], torch.zeros(0, 16))
    with pytest.raises(ConfigError, match=r"attack\.prefix_tokens=20 .* 9 are free"):
        World(prefix_tokens=20).search()


# -- the loss --------------------------------------------------------------------------------------


def test_draws_cover_the_samplers_steps_evenly(world: World) -> None:
    draws = draw(world.policy, torch.zeros(8, *tiny.SHAPE), world.source())
    assert sorted(draws.steps.tolist()) == sorted([*range(4)] * 2)
    few = draw(world.policy, torch.zeros(2, *tiny.SHAPE), world.source())
    assert [step < 2 for step in few.steps.tolist()].count(True) == 1


def test_a_network_that_knows_the_answer_has_no_loss(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(6, *tiny.SHAPE, generator=world.source())
    draws = draw(world.policy, latents, world.source())
    timesteps = world.policy.kernel.timesteps[draws.steps]
    alpha = world.policy.family.pipeline.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    # v-prediction by hand: x = sqrt(a) x0 + sqrt(1 - a) noise, v = sqrt(a) noise - sqrt(1 - a) x0.
    noise = (draws.noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
    assert torch.allclose(
        draws.answers, alpha.sqrt() * noise - (1 - alpha).sqrt() * latents, atol=1e-4
    )
    embeddings = world.policy.encode([TEXT] * 6)
    loss = losses(world.policy, draws, embeddings)
    with torch.no_grad():
        output = world.policy.network(
            draws.noisy, timesteps, encoder_hidden_states=embeddings.text
        ).sample
    assert torch.allclose(loss, ((output - draws.answers) ** 2).mean(dim=(1, 2, 3)), rtol=1e-4)


def test_a_step_is_the_same_in_parts_and_reaches_its_parameters_only(world: World) -> None:
    policy = world.policy
    draws = draw(policy, torch.randn(6, *tiny.SHAPE, generator=world.source()), world.source())
    start, moved, found = policy.encode([TEXT] * 6).text, [], []
    for microbatch in (6, 4, 1):
        attacked = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([attacked], lr=1.0)
        whole = Condition({"text": attacked})
        found.append(descend(optimizer, policy, draws, lambda rows, a=whole: a[rows], microbatch))
        moved.append(attacked.detach() - start)
    assert moved[0].abs().max() > 0
    assert torch.allclose(moved[0], moved[1], atol=1e-6)
    assert torch.allclose(moved[0], moved[2], atol=1e-6)
    assert torch.allclose(found[0], found[2], rtol=1e-4)
    assert without_gradients(policy)


def without_gradients(policy: DiffusionPolicy) -> bool:
    parts = (policy.network, policy.family.pipeline.text_encoder, policy.family.pipeline.vae)
    return all(p.grad is None for part in parts for p in part.parameters())


# -- references ------------------------------------------------------------------------------------


def test_references_are_the_untouched_models_from_noise_of_their_own(world: World) -> None:
    other = DiffusionPolicy(
        tiny.load_quickly(world.config.model), world.config
    )  # its adapter does nothing yet
    again = draw_references(other, world.book, world.book.targets, 3, 0, 2)
    assert torch.allclose(again.latents, world.references.latents, atol=1e-4)
    assert again.prompts == [0, 0, 0, 1, 1, 1]
    assert torch.equal(world.references.of(1), world.references.latents[3:])
    evaluated = {seed_of(0, "evaluation", p, n) for p in range(6) for n in range(100)}
    assert not evaluated & {
        seed_of(0, "attack", "reference", p, n) for p in range(6) for n in range(100)
    }


def test_references_show_what_was_asked_on_the_canvas() -> None:
    config = settings.load(["canvas"], environ={})
    book, policy = PromptBook.from_config(config), DiffusionPolicy(load_pipeline(Model()), config)
    from rl_unlearn.evaluation.judges import load_judge

    references = draw_references(policy, book, book.targets, 2, 0, 16)
    seen = load_judge(config)(policy.decode(references.latents))["object"]
    assert (seen == canvas.OBJECTS.index("cat")).float().mean() > 0.9


def test_spread_is_even() -> None:
    assert spread([5, 6, 7], 4) == [5, 6, 7]
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    held = References(torch.arange(4.0).view(4, 1, 1, 1), [0, 0, 1, 1]).spread(2)
    assert (held.latents.flatten().tolist(), held.prompts, len(held)) == ([0, 2], [0, 1], 2)


# -- prefix ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["canvas", "tiny"])
def test_the_vocabulary_holds_words_that_are_read_back(path: str) -> None:
    pipeline = (
        load_pipeline(Model()) if path == "canvas" else tiny.load_quickly(tiny.config().model)
    )
    words = Vocabulary(pipeline)
    assert len(words.ids) > 20
    for id, text in zip(words.ids, words.texts, strict=True):
        assert token_ids(pipeline, text) == [id]
        assert id not in pipeline.tokenizer.all_special_ids
    if path == "canvas":
        assert {"cat", "noto", "image"} <= set(words.texts)
        assert "build" not in words.texts, "the beginning of a word cannot stand alone"


def test_a_vector_is_nearest_to_itself(world: World) -> None:
    words = Vocabulary(world.policy.family.pipeline)
    places = torch.tensor([[3, 1], [0, 7]])
    off = 1e-4 * torch.randn(2, 2, 16, generator=world.source())
    assert torch.equal(words.nearest(words.vectors[places] + off), places)
    by_hand = [
        (words.vectors - v).norm(dim=1).argmin().item()
        for v in torch.ones(2, 16) * torch.tensor([[0.1], [-1]])
    ]
    assert words.nearest(torch.ones(2, 16) * torch.tensor([[0.1], [-1]])).tolist() == by_hand


def test_words_that_would_be_read_otherwise_are_refused() -> None:
    pipeline = load_pipeline(Model())
    words = Vocabulary(pipeline)
    cat = words.texts.index("cat")
    assert words.written([cat, cat], "dog") == ("cat cat", (153, 153))
    words.texts[cat] = "ca"  # as if a word were written in a way that is read as other tokens
    assert words.written([cat], "t") is None


def test_a_found_prefix_is_real_text_of_real_tokens(world: World) -> None:
    found, pipeline = world.search(), world.policy.family.pipeline
    assert len(found.ids) == 2
    assert token_ids(pipeline, found.words) == list(found.ids)
    assert token_ids(
        pipeline, pipeline.tokenizer.decode(list(found.ids)).replace("</w>", " ")
    ) == list(found.ids)
    assert token_ids(pipeline, f"{found.words} {TEXT}") == [*found.ids, *token_ids(pipeline, TEXT)]
    assert (
        len(
            token_ids(
                pipeline, random_prefix(Vocabulary(pipeline), TEXT, world.attack, world.source())
            )
        )
        == 2
    )


def test_the_search_keeps_the_best_it_saw_and_is_better_than_its_start() -> None:
    one, more = World(prefix_steps=1).search(), World(prefix_steps=12, prefix_rate=1.0).search()
    assert more.loss < one.loss
    world = World()
    draws = draw(world.policy, world.references.of(0)[torch.arange(6) % 3], world.source())
    with torch.no_grad():  # the loss of the words as text, on the draws of the search
        loss = (
            losses(world.policy, draws, world.policy.encode([f"{more.words} {TEXT}"] * 6))
            .mean()
            .item()
        )
    assert loss == pytest.approx(more.loss, rel=1e-4)


# -- inversion and relearning ----------------------------------------------------------------------


def test_inversion_lowers_the_loss_of_prompts_with_the_new_word() -> None:
    world = World(inversion_steps=40, inversion_rate=1.0)
    table = world.policy.family.pipeline.text_encoder.get_input_embeddings().weight
    start = table[token_ids(world.policy.family.pipeline, "cat")].mean(dim=0)
    draws = draw(world.policy, world.references.latents, world.source())

    def loss(vector: torch.Tensor) -> float:
        texts = [world.book.prompts[p].text for p in world.references.prompts]
        with torch.no_grad():
            return (
                losses(world.policy, draws, inversion.encode(world.policy, texts, "cat", vector))
                .mean()
                .item()
            )

    assert loss(world.invert()) < loss(start)


def test_relearning_lowers_the_denoising_loss() -> None:
    world = World(relearn_steps=(5, 60), relearn_rate=1e-2)
    draws = draw(world.policy, world.references.latents, world.source())
    embeddings = world.policy.encode([world.book.prompts[p].text for p in world.references.prompts])

    def loss() -> float:
        with torch.no_grad():
            return losses(world.policy, draws, embeddings).mean().item()

    before = loss()
    after = {steps: loss() for steps in world.relearn()}
    assert after[60] < after[5] < before
    assert after[60] < 0.9 * before
    assert loss() == before, "the fine-tuning stayed"


def test_a_fresh_lora_starts_as_nothing_and_trains_alone(world: World) -> None:
    policy, seeds = world.policy, [1, 2]
    embeddings = policy.encode([TEXT] * 2)
    with policy.adapter_enabled(False):
        untouched, *_ = policy.rollout(embeddings, seeds)
    unlearned, *_ = policy.rollout(embeddings, seeds)
    assert not torch.allclose(untouched, unlearned)
    for on_adapter, expected in ((True, unlearned), (False, untouched)):
        with relearning.fresh_lora(policy, 2, 0, on_adapter) as fresh:
            assert torch.allclose(policy.rollout(embeddings, seeds)[0], expected, atol=1e-5)
            assert fresh
            own = set(fresh)
            assert all(
                p in own
                for p in policy.network.parameters()
                if p.requires_grad and p not in adapter_of(policy)
            )
        assert torch.equal(policy.rollout(embeddings, seeds)[0], unlearned)
        assert [p.requires_grad for p in policy.parameters()] == [True] * len(policy.parameters())


def adapter_of(policy: DiffusionPolicy) -> set[torch.nn.Parameter]:
    return {p for name, p in policy.network.named_parameters() if ".default." in name}


def test_relearning_changes_the_images_while_it_lasts(world: World) -> None:
    policy, embeddings = world.policy, world.policy.encode([TEXT])
    before, *_ = policy.rollout(embeddings, [1])
    adapter = digest(policy.adapter_state())
    for _ in world.relearn():
        assert not torch.equal(policy.rollout(embeddings, [1])[0], before)
        assert digest(policy.adapter_state()) == adapter, "the unlearning adapter is frozen"
    assert torch.equal(policy.rollout(embeddings, [1])[0], before)


def test_relearning_that_is_left_early_leaves_nothing(world: World) -> None:
    weights = world.weights()
    steps = world.relearn()
    assert next(steps) == 1
    steps.close()
    assert world.weights() == weights


ATTACKS: dict[str, Callable[[World], object]] = {
    "prefix": World.search, "inversion": World.invert,
    "relearning": lambda world: list(world.relearn()),
    "relearning the untouched": lambda world: list(world.relearn(unlearned=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_every_weight_as_it_was(name: str, world: World) -> None:
    before = world.weights()
    wanted = [p.requires_grad for p in world.policy.network.parameters()]
    ATTACKS[name](world)
    assert world.weights() == before
    assert without_gradients(world.policy)
    assert [p.requires_grad for p in world.policy.network.parameters()] == wanted


# -- success ---------------------------------------------------------------------------------------


def test_the_rate_and_its_interval() -> None:
    assert rate(torch.arange(10) < 8) == pytest.approx(
        {"value": 80, "low": 49.02, "high": 94.33}, abs=0.01
    )


def test_hits_are_images_on_which_the_judge_sees_the_concept(world: World) -> None:
    asked = []

    def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
        asked.append(len(images))
        return {
            "object": torch.arange(len(images)),
            "style": torch.zeros(len(images), dtype=torch.int64),
        }

    seen = hits(
        world.policy, world.policy.encode([TEXT] * 5), [1, 2, 3, 4, 5], world.book, judge, 3
    )
    assert asked == [3, 2]
    assert seen.tolist() == [True, False, False, True, False]
    both = PromptBook.from_config(tiny.config(concept="cat,fish"))
    assert hits(
        world.policy, world.policy.encode([TEXT] * 3), [1, 2, 3], both, judge, 3
    ).tolist() == [
        True,
        False,
        True,
    ]


def test_several_concepts_are_refused_before_anything_is_drawn(world: World) -> None:
    config = tiny.config(concept="cat,dog", attack=SMALL)
    with pytest.raises(ConfigError, match="an inversion looks for one concept"):
        Bench(world.policy, PromptBook.from_config(config), lambda _: pytest.fail("drawn"), config)


# -- the table -------------------------------------------------------------------------------------


def bright(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """A judge that calls bright images cats: it depends on the pixels, so it sees what an attack
    changes.
    """
    labels = (images.mean(dim=(1, 2, 3)) < 0.5).long()
    return {"object": labels, "style": labels}


def test_the_table_has_every_attack_and_is_deterministic() -> None:
    world, told = World(), []
    table = (
        Bench(
            world.policy,
            world.book,
            bright,
            world.config,
            lambda text, done, total: told.append((done, total)),
        )
        .table()
        .content()
    )
    assert [(row["attack"], row["budget"]) for row in table["rows"]] == [
        ("none", "plain prompt"),
        ("prefix", "2 random words"),
        ("prefix", "2 words, 2 x 3 steps"),
        ("inversion", "6 images, 3 steps"),
        ("relearn", "4 images, 1 steps"),
        ("relearn", "4 images, 2 steps"),
        ("relearn", "4 images, 4 steps"),
        ("relearn", "4 unrelated images, 1 steps"),
        ("relearn", "4 unrelated images, 2 steps"),
        ("relearn", "4 unrelated images, 4 steps"),
    ]
    assert (
        {row["attack"] for row in table["rows"]}
        == DEFINITIONS.keys()
        == table["definitions"].keys()
    )
    assert (table["concept"], table["seed"]) == ("cat", 0)
    for row in table["rows"]:
        assert row["images"] == 4
        for side in ("before", "after"):
            assert 0 <= row[side]["low"] <= row[side]["value"] <= row[side]["high"] <= 100
    done, total = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert max(done) < total[0] == total[-1]
    for side in ("untouched", "adapter"):
        assert list(table["prefixes"][side]) == [
            world.book.prompts[i].text for i in world.book.targets
        ]
    torch.manual_seed(99)
    other = World()
    again = Bench(other.policy, other.book, bright, other.config).table().content()
    for row in (*table["rows"], *again["rows"]):
        row.pop("seconds")
    assert again == table


def test_a_target_prompt_that_comes_twice_is_attacked_twice(tmp_path: Path) -> None:
    for name, text in (("target", "a cat\na cat\n"), ("retain", "a dog\n")):
        (tmp_path / name).write_text(text)
    world = World(relearn_steps=(1,))
    config = world.config.model_copy(
        update={
            "prompts": Prompts(
                target_file=str(tmp_path / "target"), retain_file=str(tmp_path / "retain")
            ),
        }
    )
    table = Bench(world.policy, PromptBook.from_config(config), bright, config).table().content()
    assert table["prefixes"]["adapter"].keys() == {"a cat"}
    assert {row["images"] for row in table["rows"]} == {4}


def test_without_an_effect_of_the_adapter_both_columns_agree() -> None:
    world = World()
    for parameter in world.policy.parameters():
        parameter.data.zero_()
    for row in Bench(world.policy, world.book, bright, world.config).table().content()["rows"]:
        assert row["before"] == row["after"], row


def test_the_plain_row_is_the_evaluations() -> None:
    world = World()
    assert world.config.evaluation.target_images == world.attack.images
    before = world.config.attack.model_copy(
        update={"prefix_steps": 1, "inversion_steps": 1, "relearn_steps": (1,)}
    )
    config = world.config.model_copy(update={"attack": before})
    row = Bench(world.policy, world.book, bright, config).table().content()["rows"][0]
    drawn = plan(world.book, world.config)
    asked = [i for i, prompt in enumerate(drawn.prompts) if world.book.prompts[prompt].target]
    images = world.policy.generate([drawn.texts[i] for i in asked], [drawn.seeds[i] for i in asked])
    seen = bright(images)[world.book.concept_domain] == world.book.concepts[0]
    assert row["after"]["value"] == pytest.approx(100 * seen.double().mean().item())


# -- the command -----------------------------------------------------------------------------------

QUICK = (
    "attack.prompts=2", "attack.images=1", "attack.references=1", "attack.draws=2",
    "attack.prefix_steps=1",
    "attack.prefix_restarts=1", "attack.inversion_steps=1", "attack.relearn_steps=1,2",
    "attack.relearn_images=2",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder on the canvas whose adapter does nothing."""
    config = settings.load(["canvas"], [f"output={tmp_path}", "name=cats"], environ={})
    folder = run_folder.reserve(config, overwrite=False)
    with folder.running(config, ["test"]):
        save_adapter(
            folder / "adapter",
            DiffusionPolicy(load_pipeline(Model()), config).adapter_state(),
            config,
        )
        folder.update(training={"images_used": 0, "updates": 0, "wall_seconds": 0})
    return folder.path


def test_the_command_writes_the_table_into_the_run(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["attack", str(run), "--json", *QUICK]) == 0
    printed, said = capfd.readouterr()
    written = json.loads((run / "attacks.json").read_text())
    assert json.loads(printed) == written
    assert [row["attack"] for row in written["rows"]] == [
        "none",
        "prefix",
        "prefix",
        "inversion",
    ] + ["relearn"] * 4
    assert written["rows"][0]["before"]["value"] == 100
    assert "relearning unrelated images" in said
    assert "attacks on cat, seed 0" in said
    assert (run / "report.html").is_file()
    (run / "attacks.json").unlink()
    assert main(["attack", str(run), *QUICK, "seed=1"]) == 0
    assert not (run / "attacks.json").exists(), (
        "another seed is another model's evaluation, not this run's"
    )


def test_a_prefix_without_room_is_one_line(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", str(run), *QUICK, "attack.prefix_tokens=4"]) == 2
    assert "attack.prefix_tokens=4 does not fit" in capfd.readouterr().err
    assert not (run / "attacks.json").exists()
    assert main(["attack", str(run / "none")]) == 5
    assert main(["attack", str(run), "attack.relearn_steps=[3, 2]"]) == 2
