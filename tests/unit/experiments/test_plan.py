"""The plan of a run against runs: FLOPs, images and bytes are counted where they really come
about."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from tiny import quick  # noqa: F401
from torch.profiler import ProfilerActivity, profile

from actors.critic import CriticActor
from actors.replay import ReplayActor
from actors.rollout import RolloutActor
from cluster import program
from cluster.placement import Place
from experiments import settings
from experiments.__main__ import main
from experiments.benchmarks import sizes
from experiments.plan import costs, counting, hollow, images, memory, page, speeds, stores
from experiments.plan.costs import Costs
from experiments.plan.counting import counter
from experiments.plan.make import make
from learner.learner import Learner
from rl_unlearn.adapters import lora
from rl_unlearn.config import Config
from rl_unlearn.errors import DataError
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.messages import Request
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

NAMES = list(tiny_families.FOLDERS)
GIBIBYTE = 2**30
Event = tuple[str, dict[str, Any]]


def of_family(name: str, **changes: Any) -> Config:
    model = {"path": str(tiny_families.FOLDERS[name]()), "size": tiny_families.SIZE}
    return tiny.config(model=model | changes.pop("model", {}), **changes)


def judged(**changes: Any) -> Config:
    evaluation = {"judge": str(tiny.clip_folder(2))} | changes.pop("evaluation", {})
    return tiny.config(evaluation=evaluation, **changes)


def planned(config: Config) -> tuple[PromptBook, hollow.Hollow, Costs]:
    book, model = PromptBook.from_config(config), hollow.build(config, "cpu")
    return book, model, costs.of(config, book, model)


# -- one pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_pass_is_counted_as_the_real_network_makes_it(name: str, guidance: float) -> None:
    chosen = of_family(name, sampler={"guidance": guidance}, lora={"layers": "attention"})
    _, model, one = planned(chosen)
    real = DiffusionPolicy(load_pipeline(chosen.model, chosen.sampler), chosen)
    latents, told = torch.randn(1, *real.latent_shape), real.encode(["A cat image in flat style."])
    assert {key: tuple(value.shape[1:]) for key, value in told.tensors.items()} == model.told
    with counter() as forward:
        output = real.predict(latents, torch.tensor([1]), told)
    with counter() as backward:
        output.sum().backward()
    with counter() as decode:
        real.decode(latents)
    assert one.guided == forward.get_total_flops() > 0
    assert one.learn == forward.get_total_flops() + backward.get_total_flops()
    assert one.decode.forward == decode.get_total_flops() > 0
    assert one.branches == (1 if guidance == 1 or name == "flux" else 2)
    assert one.learned == len(real.kernel.learned)


def test_an_evaluation_takes_the_steps_of_its_scheduler() -> None:
    chosen = judged(evaluation={"scheduler": "dpm++", "steps": 20})
    _, _, one = planned(chosen)
    assert one.judged - one.image == (20 - chosen.sampler.steps) * one.guided > 0
    _, _, one = planned(judged())
    assert one.judged == one.image


def test_of_attention_the_counter_sees_both_passes() -> None:
    tokens, width = 64, 8
    query = torch.randn(2, 3, tokens, width, requires_grad=True)
    with counter() as forward:
        found = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    with counter() as backward:
        found.sum().backward()
    product = 2 * 2 * 3 * tokens * tokens * width
    assert forward.get_total_flops() == 2 * product
    assert backward.get_total_flops() == 5 * product, "fused attention makes its table anew"


def test_bytes_kept_are_those_that_autograd_keeps() -> None:
    """Of two linear layers and a square: the input of each layer whose weights are trained, and
    what is squared.
    """
    first, second = (torch.nn.Linear(10, 20, device="meta"), torch.nn.Linear(20, 5, device="meta"))
    weights = [*first.parameters(), *second.parameters()]
    rows = torch.empty(7, 10, device="meta")
    found = counting.count(lambda: second(first(rows)).square(), weights, trained=True)
    assert found.kept == 4 * 7 * (10 + 20 + 5)
    assert found.forward == 2 * 7 * (10 * 20 + 20 * 5)
    assert found.backward == 2 * 7 * (10 * 20 + 2 * 20 * 5), (
        "nobody asks for the gradient of the rows"
    )
    assert found.peak == 4 * 7 * (20 + 5), (
        "rows are made by no call, a square takes its input's place or less"
    )
    first.requires_grad_(False)
    assert counting.count(lambda: second(first(rows)), weights, trained=True).kept == 4 * 7 * 20


@pytest.mark.parametrize("checkpointed", [False, True])
def test_bytes_in_use_at_once_are_those_of_the_real_pass(checkpointed: bool) -> None:
    """Of a transformer on the CPU, as torch's profiler measures them."""

    def made(device: str) -> tuple[SD3Transformer2DModel, dict[str, torch.Tensor]]:
        with torch.device(device):
            network = SD3Transformer2DModel(
                sample_size=32, patch_size=2, in_channels=16, out_channels=16, num_layers=6,
                attention_head_dim=32,
                num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=128,
                pooled_projection_dim=32,
                pos_embed_max_size=32, qk_norm="rms_norm",
            ).requires_grad_(False)  # fmt: skip
            network.add_adapter(LoraConfig(r=4, target_modules=r".*attn\.to_[qkv]$"))
            asked = {
                "hidden_states": torch.ones(1, 16, 32, 32), "timestep": torch.ones(1),
                "encoder_hidden_states": torch.ones(1, 77, 64),
                "pooled_projections": torch.ones(1, 32),
            }  # fmt: skip
        return network.to(device), asked

    network, asked = made("cpu")
    if checkpointed:
        network.enable_gradient_checkpointing()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        network(**asked).sample.float().sum().backward()
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    hollow_one, told = made("meta")
    if checkpointed:
        hollow.checkpoint(hollow_one, counting.Device())
    weights = [*hollow_one.parameters(), *hollow_one.buffers()]
    found = counting.count(lambda: hollow_one(**told).sample, weights, trained=True)
    assert found.learning == pytest.approx(most, rel=0.05)
    assert (found.kept < 0.5 * most) == checkpointed


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3"])
def test_checkpointing_keeps_less_and_computes_again(name: str) -> None:
    plain, again = (
        planned(of_family(name, learner={"checkpointing": way}))[2].step for way in ("off", "on")
    )
    assert again.kept < 0.7 * plain.kept
    assert again.learning < plain.learning
    assert plain.kept <= plain.learning
    assert plain.forward == again.forward
    assert plain.backward + 0.5 * plain.forward < again.backward <= plain.backward + plain.forward


# -- a model of real size --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stable_diffusion_15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder without any weights."""
    folder = tmp_path_factory.mktemp("sd15") / "model"
    sizes.write("sd15", folder)
    return folder


def test_stable_diffusion_15_takes_what_was_measured(stable_diffusion_15: Path) -> None:
    """On an H100 at 512 pixels, bf16, rank 16: 0.80 TFLOP a pass; 1.41 GiB of memory for each image
    more that is decoded.

    Memory of the network was measured when it computed under autocast, which kept the outputs of
    norms and the inputs of the adapter in fp32 as well: 0.97 GiB for an image and a branch, 38.6
    GiB of the three in one process with a second copy of the network, 10.3 GiB of the learner with
    checkpointing, 16 states at once. Without it less is kept.
    """

    def plan(**learner: Any) -> tuple[hollow.Hollow, Costs, dict[str, memory.Role]]:
        chosen = tiny.config(
            model={"path": str(stable_diffusion_15), "dtype": "bf16"},
            sampler={"guidance": 5.0, "steps": 30},
            lora={"rank": 16}, learner={"microbatch": 16, "batch": 24} | learner,
            rollout={"batch": 16, "images": 24},
        )  # fmt: skip
        book, model, one = planned(chosen)
        return model, one, memory.roles(chosen, book, model, one)

    model, one, needs = plan()
    assert one.step.forward == pytest.approx(0.80e12, rel=0.03)
    assert one.guided == pytest.approx(1.61e12, rel=0.03)
    assert 0.7 * 0.97 * GIBIBYTE < one.step.kept < 0.97 * GIBIBYTE
    assert one.decode.peak == pytest.approx(1.41 * GIBIBYTE, rel=0.25)
    assert sum(p.numel() for p in model.network.parameters()) == pytest.approx(0.86e9, rel=0.01)
    together = (
        memory.together(list(needs.values()), in_turn=True) + needs["learner"].lasting["network"]
    )
    assert 0.7 * 38.6 * GIBIBYTE < together < 38.6 * GIBIBYTE
    assert 0.7 * 10.3 < plan(checkpointing="on")[2]["learner"].total / GIBIBYTE < 10.3


def test_on_a_gpu_images_are_decoded_in_parts(stable_diffusion_15: Path) -> None:
    chosen = tiny.config(
        model={"path": str(stable_diffusion_15)}, rollout={"batch": 16, "images": 24}
    )
    book = PromptBook.from_config(chosen)
    needs = {}
    for device in ("cpu", "cuda"):
        model = hollow.build(chosen, device)
        needs[device] = memory.roles(chosen, book, model, costs.of(chosen, book, model))[
            "rollout"
        ].moments
    assert needs["cuda"]["decoding 16 images"] < 0.3 * needs["cpu"]["decoding 16 images"]


# -- whole runs ------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of images of all calls that draw."""
    found: list[int] = []
    plain = DiffusionPolicy.rollout

    def rollout(self: DiffusionPolicy, condition: Any, seeds: list[int]) -> Any:
        found.append(len(seeds))
        return plain(self, condition, seeds)

    monkeypatch.setattr(DiffusionPolicy, "rollout", rollout)
    return found


@pytest.mark.slow
def test_images_and_bytes_are_those_of_a_whole_run(tmp_path: Path, drawn: list[int]) -> None:
    chosen = judged(
        output=str(tmp_path / "out"), name="r", loop={"checkpoint_every": 1}, replay={"spill": True}
    )
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(chosen))
    plan = make(chosen, evaluated=True)
    assert not (tmp_path / "out").exists()
    assert main(["train", "--config", str(file)]) == 0
    assert sum(drawn) == plan["images"]["all"]
    run, disk = tmp_path / "out" / "r", plan["disk"]

    def size(*patterns: str) -> int:
        return sum(
            path.stat().st_size
            for pattern in patterns
            for path in run.glob(pattern)
            if path.is_file()
        )

    headers = 16_384
    assert disk["adapter"] <= size("adapter/*.safetensors") <= disk["adapter"] + headers
    assert disk["critic"] <= size("critic.safetensors") <= disk["critic"] + headers
    assert (
        disk["warm-up of the checkpoints"]
        <= size("checkpoints/warm-up*")
        <= disk["warm-up of the checkpoints"] + headers
    )
    spilled = size("replay/**/*.arrow")
    assert disk["spilled replay batches"] <= spilled <= disk["spilled replay batches"] + 8 * headers
    checkpoints = size("checkpoints/round-*/*")
    assert 0.5 * checkpoints < disk["checkpoints, 2 and the next"] * 2 / 3
    assert checkpoints < disk["checkpoints, 2 and the next"] + 8 * headers


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"loop": {"rounds": 5}, "selection": {"every": 1}},
        {"loop": {"rounds": 5, "pipeline": 0}, "selection": {"every": 1}},
        {"loop": {"rounds": 4, "pipeline": 3}, "selection": {"every": 1},
         "rollout": {"images": 5, "batch": 3}},
        {"learner": {"updates_per_round": 2}, "replay": {"max_lag": 4}, "loop": {"rounds": 4}},
        {"replay": {"capacity": 32}, "loop": {"rounds": 6}},
    ],
)  # fmt: skip
def test_images_trajectories_and_states_are_those_of_the_loop(
    changes: dict[str, Any], drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = tiny.config(**changes)
    book, _, one = planned(chosen)
    most = [0]
    add = ReplayActor.add

    async def adding(self: ReplayActor, *arguments: Any) -> int:
        kept = await add(self, *arguments)
        most.append((await self.counts())["held"])
        return kept

    monkeypatch.setattr(ReplayActor, "add", adding)
    events: list[Event] = []
    program.train(chosen, tiny.into(events))
    wanted = images.count(chosen, book, evaluated=False)
    assert sum(drawn) == sum(wanted.values())
    (warm_up,) = [row for name, row in events if name == "warm-up"]
    assert warm_up["pool_states"] == stores.kept(chosen, book).retained * one.learned
    assert (
        max(most)
        <= stores.held(chosen)
        <= max(most) + chosen.rollout.images * (chosen.loop.pipeline + 1)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "estimator", "guidance"),
    [
        ("stable_diffusion", "vtrace", 1.0), ("stable_diffusion", "x0hat", 1.0),
        ("stable_diffusion", "qprop", 1.0), ("sd3", "pathwise", 2.0),
        ("stable_diffusion", "backprop", 1.0), ("sd3", "backprop", 2.0),
    ],
)  # fmt: skip
def test_the_work_of_each_phase_is_the_real_one(
    name: str, estimator: str, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = of_family(
        name,
        estimator={"name": estimator},
        sampler={"guidance": guidance},
        loop={"rounds": 2},
        reward={"anchor": "dog"},
        learner={"anchor_weight": float(estimator == "backprop")},
    )
    monkeypatch.setattr(
        "torch.backends.mha._is_fastpath_enabled", False
    )  # the counter does not see it
    found: Counter[str] = Counter()

    def counted(kind: type, method: str, phase: Callable[[Any], str]) -> None:
        plain = getattr(kind, method)

        def call(self: Any, *arguments: Any) -> Any:
            with counter() as one:
                answer = plain(self, *arguments)
            found[phase(arguments)] += one.get_total_flops()
            return answer

        monkeypatch.setattr(kind, method, call)

    counted(RolloutActor, "sample", lambda given: "rollouts" if given[0].round else "warm-up")
    counted(RolloutActor, "validate", lambda _: "validations")
    counted(Learner, "make_pool", lambda _: "warm-up")
    counted(Learner, "update", lambda _: "learner")
    counted(CriticActor, "warm_up", lambda _: "warm-up")
    counted(CriticActor, "fit", lambda _: "critic")
    counted(CriticActor, "score", lambda _: "critic")
    program.train(chosen, lambda *_: None)
    book, _, one = planned(chosen)
    wanted = images.count(chosen, book, evaluated=False)
    work = costs.phases(one, wanted, stores.kept(chosen, book))
    # The pool's means are made without the adapter, which is not worth a count of its own.
    assert work.pop("warm-up") == pytest.approx(found.pop("warm-up"), rel=0.005)
    assert work == {"critic": 0} | found


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["pathwise", "qprop", "x0hat", "group", "backprop"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bytes_of_a_trajectory(estimator: str, dtype: str) -> None:
    chosen = tiny.config(estimator={"name": estimator}, model={"dtype": dtype})
    book, model, _ = planned(chosen)
    learner, actor = Learner(chosen), RolloutActor(chosen)
    trajectory = actor.sample(Request(1, (0, 1), 0), learner.weights())
    scores = CriticActor(chosen).score(trajectory, 0)
    stored = sum(tensor.nbytes for tensor in trajectory.tensors().values())
    added = (scores.steps, scores.values, scores.action_gradients)
    more = [tensor for tensor in added if tensor is not None]
    one = stores.row(chosen, book, model)
    assert (2 * one.stored, 2 * one.scored) == (
        stored,
        stored + sum(tensor.nbytes for tensor in more),
    )


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_held_as_the_plan_says(name: str) -> None:
    """`memory.STORED` says what the policy does."""
    chosen = of_family(name, model={"dtype": "bf16"})
    _, model, _ = planned(chosen)
    real = DiffusionPolicy(load_pipeline(chosen.model, chosen.sampler), chosen)
    adapter = {id(p) for p in lora.parameters(real.network).values()}
    parts = [
        part
        for part in real.family.pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    parameters = {id(p): p for part in parts for p in memory.tensors(part) if id(p) not in adapter}
    assert sum(memory.weights(model).values()) == sum(p.nbytes for p in parameters.values())
    assert sum(p.numel() for p in model.adapter) == sum(p.numel() for p in real.parameters())
    held = memory.roles(chosen, *planned(chosen))["learner"].lasting
    assert held["adapter, copied"] == sum(p.nbytes for p in lora.parameters(real.network).values())


def test_who_shares_a_card() -> None:
    role = memory.Role({"weights": 10}, {"this": 3, "that": 5})
    needs = {"rollout": role, "critic": role, "learner": role}

    def cards(rollouts: int, *gpus: float, inline: bool = False) -> list[list[str]]:
        numbers = {"rollout": rollouts, "critic": 1, "learner": 1, "replay": 1}
        shares = dict(zip(numbers, (*gpus, 0.0), strict=True))
        groups = {
            who: [Place({"CPU": 1.0, "GPU": shares[who]}, {})] * count
            for who, count in numbers.items()
        }
        return memory.cards(groups, needs, inline)

    assert cards(1, 0.4, 0.1, 0.5) == [["rollout", "critic", "learner"]]
    assert cards(2, 0.4, 0.1, 0.5) == [["rollout", "rollout", "critic"], ["learner"]]
    assert cards(2, 1.0, 0.0, 1.0) == [["rollout", "critic"], ["rollout"], ["learner"]]
    assert cards(1, 0.0, 0.0, 0.0) == [["rollout", "critic", "learner"]]
    assert cards(2, 1.0, 1.0, 1.0, inline=True) == [["rollout", "rollout", "critic", "learner"]]
    assert memory.together([role, role], in_turn=False) == 30
    assert memory.together([role, role], in_turn=True) == 25


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    chosen = judged(output=str(tmp_path / "out"), name="r", cluster={"inline": False})
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.dump(chosen))
    return ["train", "--plan", "--config", str(file)]


def test_the_command_makes_nothing_and_needs_no_weights(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny.pipeline_folder(), model, ignore=shutil.ignore_patterns("*.safetensors"))
    assert (
        main(
            [
                *command,
                f"model.path={model}",
                "--tflops",
                "100",
                "--mfu",
                "0.5",
                "cluster.learner_gpus=2",
            ]
        )
        == 0
    )
    said = capsys.readouterr().err
    assert "at 100 TFLOP/s, 50% of it used" in said
    assert "warning: on this machine only 0 of 4 actors fit" in said
    assert "in unet/" in said
    assert not (tmp_path / "out").exists()


def test_as_json(command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--json", "--tflops", "100"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["images"]["all"] == sum(
        number for kind, number in plan["images"].items() if kind != "all"
    )
    assert plan["hours"]["all"] == pytest.approx(plan["work"]["all"] / (0.4 * 100e12) / 3600)
    assert [place["role"] for place in plan["places"]] == ["rollout", "critic", "learner", "replay"]
    assert plan["mfu"] == speeds.MFU
    assert not (tmp_path / "out").exists()
    assert main([*command, "--json", "--no-evaluate"]) == 0
    shorter = json.loads(capfd.readouterr().out)
    assert shorter["images"].keys() == {"warm-up", "rounds", "validations", "all"}
    assert shorter["hours"] is None or shorter["tflops"] in speeds.PEAKS.values()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mfu", "2"], "--mfu 2 is more than all"),
        (["--mfu", "none"], "--mfu 'none' is no positive number"),
        (["--tflops", "-3"], "--tflops '-3' is no positive number"),
        (["--tflops", "nan"], "no positive number"),
        (["concept=unicorn"], "unicorn"), (["loop.rounds=0"], "loop.rounds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    command: list[str], flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert len(lines) == 1


def test_speeds_are_for_plans_alone(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part for part in command if part != "--plan"] + ["--tflops", "3"]) == 2
    assert "give them with --plan" in capsys.readouterr().err


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny.pipeline_folder(), model)
    file = model / "unet" / "config.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"down_block_types": ["NoSuchBlock", "DownBlock2D"]}
        )
    )
    with pytest.raises(DataError, match="no network can be made of model folder"):
        make(tiny.config(model={"path": str(model)}), evaluated=False)


def test_a_hub_model_is_planned_by_its_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(name: str, **how: Any) -> str:
        asked.update(how, name=name)
        return str(tiny.pipeline_folder())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    chosen = tiny.config(model={"path": "owner/name", "revision": "v1"})
    assert make(chosen, evaluated=False)["flops"]["one image"] > 0
    patterns = ["*.json", "*/*.txt"]
    assert asked == {"name": "owner/name", "revision": "v1", "allow_patterns": patterns}

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        DataError, match=r"'owner/name' \(model\.revision=v1\) cannot be fetched.*: no network"
    ):
        make(chosen, evaluated=False)


def test_units() -> None:
    assert [page.size(n) for n in (0, 512, 2048, 3 * 2**30)] == ["0 B", "512 B", "2 KiB", "3 GiB"]
    assert [page.operations(n) for n in (5, 2.5e9, 1.61e12, 4e19)] == [
        "5 FLOP",
        "2.5 GFLOP",
        "1.61 TFLOP",
        "40 EFLOP",
    ]
    assert [page.duration(h) for h in (2.0, 0.05, 0.0005)] == ["2.0 h", "3.0 min", "1.8 s"]


def test_cards_are_known_by_their_names() -> None:
    assert speeds.peak("NVIDIA H100 80GB HBM3") == 790
    assert speeds.peak("NVIDIA GeForce RTX 4090") == 165
    assert speeds.peak("Tesla T4") is None
