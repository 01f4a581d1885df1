"""Every family against its own pipeline in plain diffusers, through whole runs, and when its folder
is not right.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from tiny_batches import first_ratios
from tiny_policies import PROMPTS, config, policy, refusals
from weight_files import networks

from cluster import connection, program
from experiments.__main__ import main
from experiments.export import adapters
from rl_unlearn.adapters.adapter import read_adapter, save_adapter
from rl_unlearn.config import Model, Sampler
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.flux import pack, places, unpack
from rl_unlearn.families.of import FAMILIES, read_shape_and_kernel
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.models import model_folder
from rl_unlearn.models.tokens import TokenLimit
from rl_unlearn.noise import trajectory_noise

NAMES = list(tiny_families.FOLDERS)
KINDS = tiny_families.KINDS
SEEDS = [3, 1]
STARTS = {"flux": pack, "qwen_image": pack, "flux2": torch.nn.PixelUnshuffle(2)}
"""How a pipeline wants its noise, if not as latents are."""
GUIDED: dict[str, dict[str, Any]] = {
    "qwen_image": {"true_cfg_scale": 3.0, "negative_prompt": [" "] * 2},
    "z_image": {"guidance_scale": 2.0},  # counted from 0
    "sana": {"guidance_scale": 3.0, "use_resolution_binning": False},
}
"""How a pipeline is asked for a scale of 3, if not by `guidance_scale`."""


def plain(name: str) -> DiffusionPipeline:
    """As a user of diffusers loads it; where our kernel stands in for a sampler, with DDIM or
    Euler's steps.
    """
    left_out = {"text_encoder_3": None, "tokenizer_3": None} if "without" in name else {}
    pipeline = DiffusionPipeline.from_pretrained(tiny_families.FOLDERS[name](), **left_out)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "unet"):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    if name == "sana":
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(
            shift=pipeline.scheduler.config.flow_shift
        )
    return pipeline


def test_both_tables_name_the_same_families() -> None:
    assert FAMILIES.keys() == model_folder.LAYOUTS.keys()
    for name, layout in model_folder.LAYOUTS.items():
        assert resolve_name(FAMILIES[name]).trained == layout.trained


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(16, 16), (16, 32)], ids=["square", "wide"])
def test_without_noise_it_draws_what_the_pipeline_draws(name: str, size: tuple[int, int]) -> None:
    """To 1e-5 of the image's range, over six steps with guidance; FLUX is told the scale."""
    if name == "sana":
        size = (2 * size[0], 2 * size[1])  # its pipeline draws multiples of 32 alone
    chosen = config(name, sampler={"steps": 6, "guidance": 3.0, "eta": 1e-9}, model={"size": size})
    made = policy(chosen)
    noise = trajectory_noise(SEEDS, 6, made.latent_shape)
    ours = made.decode(made.rollout(made.encode(PROMPTS), SEEDS)[0][:, -1])
    pipeline = plain(name)
    start = STARTS.get(name, torch.nn.Identity())(noise[:, 0])
    extra = GUIDED.get(name, {"guidance_scale": 3.0})
    if "sd3" in name or name == "sana":
        extra = extra | {"sigmas": [1 - i / 6 for i in range(6)]}
    theirs = pipeline(
        prompt=[*PROMPTS],
        height=size[0],
        width=size[1],
        num_inference_steps=6,
        latents=start,
        output_type="pt",
        **extra,
    ).images
    assert ours.shape == (2, 3, *size)
    assert [made.family.autoencoder.scale * n for n in made.latent_shape[1:]] == [*size]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    if name == "flux":
        other = pipeline(PROMPTS, height=size[0], width=size[1], num_inference_steps=6,
                         guidance_scale=1.0,
                         latents=start, output_type="pt").images  # fmt: skip
        assert not torch.allclose(ours, other, atol=1e-4), (
            "the scale has no effect: the test has lost its point"
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_first_ratios_are_exactly_one(name: str, dtype: str) -> None:
    """In batches of the same size: of another one a convolution on the CPU may round its last bit
    otherwise.
    """
    chosen = config(name, model={"dtype": dtype}, sampler={"guidance": 2.0})
    assert first_ratios(chosen) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["flux", "z_image", "sana"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_prompts_beside_change_no_bit(name: str, dtype: str) -> None:
    """However long they are: these families read prompts of very different length."""
    made = policy(config(name, model={"dtype": dtype}, sampler={"guidance": 2.0}))
    latents = torch.randn(3, *made.latent_shape, generator=torch.Generator().manual_seed(1)).to(
        made.dtype
    )
    found = []
    for others in (["", "a"], ["a picture of very many small things " * 9, "a dog " * 20]):
        with torch.no_grad():
            found.append(
                made.predict(latents, torch.tensor([2, 0, 3]), made.encode(["a cat", *others]))
            )
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1:], found[1][1:]), "the test has lost its point"


@pytest.mark.parametrize("name", ["flux", "z_image", "sana"])
def test_what_is_cut_has_no_effect_and_what_is_not_has(name: str) -> None:
    chosen = config(name)
    made, limit = policy(chosen), TokenLimit(Path(chosen.model.path))
    long = "abcdefghij" * 60
    kept = len(long) - len(limit.cut([long])[long])
    for other, equal in ((long[:kept] + "zz", True), (long[: kept - 1] + "z", False)):
        told, twin = made.encode([long, other]).text
        assert torch.equal(told, twin) == equal == (limit.read([long]) == limit.read([other]))
    assert limit.cut([long[:kept]]) == {}
    assert limit.cut([long[:kept] + "z"]) == {long[:kept] + "z": "z"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", ["cross", "self", "attention"])
def test_plain_diffusers_loads_the_adapter(name: str, layers: str, tmp_path: Path) -> None:
    chosen = config(name, lora={"layers": layers, "rank": 3}, sampler={"guidance": 1.0})
    made, source = policy(chosen), torch.Generator().manual_seed(1)
    condition, latents = made.encode(PROMPTS), torch.randn(2, *made.latent_shape, generator=source)
    index = torch.tensor([0, 3])
    with torch.no_grad():
        untouched = made.predict(latents, index, condition)
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
        ours = made.predict(latents, index, condition)
    save_adapter(tmp_path, made.adapter_state(), chosen)
    assert read_adapter(tmp_path).keys() == made.adapter_state().keys()
    assert f"lora.layers={layers}" in adapters.described(tmp_path)
    pipeline = plain(name)
    pipeline.load_lora_weights(tmp_path)
    loaded = policy(chosen)
    with torch.no_grad():
        network, loaded.family.network = (
            loaded.family.network,
            getattr(pipeline, made.family.trained),
        )
        theirs = loaded.predict(latents, index, condition)
    assert network is not loaded.family.network
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, untouched, atol=1e-4), (
        "the adapter has no effect: the test has lost its point"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_critic_needs_no_weights_to_know_shape_and_kernel(name: str) -> None:
    chosen = config(name)
    made, (shape, kernel) = policy(chosen), read_shape_and_kernel(chosen)
    assert shape == made.latent_shape
    for table in (
        "timesteps",
        "signal",
        "noise",
        "signal_next",
        "noise_next",
        "clean",
        "dirty",
        "std",
    ):
        assert torch.equal(getattr(kernel, table), getattr(made.kernel, table)), table
    assert len(kernel.learned) > 0


def versions(name: str, **cluster: Any) -> list[str]:
    """Digests of all versions of a run."""
    events: list[tuple[str, dict[str, Any]]] = []
    guided = {"guidance": 2.0}
    chosen = config(
        name, sampler=guided, cluster=cluster, loop={"timeout": 600.0, "heartbeat": 300.0}
    )
    program.train(chosen, tiny.into(events))
    return tiny.versions(events)


@functools.cache
def inline(name: str) -> list[str]:
    """The same of the run in one process."""
    return versions(name, inline=True)


@pytest.mark.parametrize(
    "name", [*KINDS[1:4], *(pytest.param(name, marks=pytest.mark.long) for name in KINDS[4:])]
)
def test_a_run_moves_the_policy_and_repeats_itself(name: str) -> None:
    assert len(set(inline(name))) == 3
    assert versions(name, inline=True) == inline(name)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One private Ray for all families, instead of one for each run."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "ray_cluster", lambda _: contextlib.nullcontext())
        yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize(
    "name",
    ["sd3", *(pytest.param(name, marks=pytest.mark.long) for name in KINDS[1:] if name != "sd3")],
)
def test_on_ray_it_has_the_same_bits(name: str) -> None:
    assert versions(name, inline=False, actor_cpus=0.1) == inline(name)


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_families.FOLDERS[request.param](), tmp_path / "model"))


def weights(folder: Path, component: str) -> Path:
    (file,) = (folder / component).glob("*.safetensors")
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stochastic_sampling": True}, "stochastic_sampling and invert_sigmas must be false"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"max_image_seq_len": 256}, "base_image_seq_len 256 is not below 256"),
        ({"max_image_seq_len": None}, "damaged"),
        ({"_class_name": "DDIMScheduler"}, "only FlowMatchEulerDiscreteScheduler can be sampled"),
    ],
)
def test_a_scheduler_that_cannot_be_sampled_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_families.flux(), tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert all(said in line for line in refusals(folder))


def test_weights_that_are_missing_are_named(folder: Path) -> None:
    for component in networks(folder):
        file = weights(folder, component)
        whole, state = file.read_bytes(), load_file(file)
        state.pop(lost := sorted(state)[len(state) // 2])
        save_file(state, file, {"format": "pt"})
        plain_name = lost.removeprefix("text_model.")
        assert all(
            f"{component} lacks 1 weights, such as {plain_name}" in said
            for said in refusals(folder)
        )
        file.write_bytes(whole)


def test_a_folder_without_one_of_its_parts(folder: Path) -> None:
    for component in model_folder.components(folder):
        aside = folder / f"{component}-aside"
        (folder / component).rename(aside)
        assert all(component in said for said in refusals(folder))
        aside.rename(folder / component)


def test_parts_of_two_models(folder: Path) -> None:
    """A text encoder of another width, whole in itself."""
    components = [name for name in networks(folder) if name.startswith("text_encoder")]
    file = folder / components[-1] / "config.json"
    content = json.loads(file.read_text())
    key = "d_model" if "d_model" in content else "hidden_size"
    if "projection_dim" in content and (folder / "transformer").is_dir():
        key = "projection_dim"
    content.get("text_config", content)[key] = 24  # some encoders read more than words
    file.write_text(json.dumps(content))
    assert all("features a token" in said for said in refusals(folder))


def test_a_sampler_of_another_process(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    flows = (folder / "transformer").is_dir()
    other = "DDIMScheduler" if flows else "FlowMatchEulerDiscreteScheduler"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": other}))
    assert all(other in said for said in refusals(folder))


def test_a_distilled_model_is_refused_in_words(tmp_path: Path) -> None:
    said = refusals(tiny_families.flux(guided=False))
    assert all("FLUX.1-schnell" in line and "use FLUX.1-dev" in line for line in said)
    said = refusals(tiny_families.flux2(distilled=True))
    assert all("is_distilled" in line and "use FLUX.2-klein-base" in line for line in said)


@pytest.mark.parametrize(("size", "step"), [((16, 18), 4), ((20, 12), None), ((8, 10), 4)])
def test_a_size_that_cannot_be_drawn(size: tuple[int, int], step: int | None) -> None:
    path = str(tiny_families.flux())
    if step is None:
        assert model_folder.latent_shape(Path(path), Model(path=path, size=size)) == (16, 10, 6)
        return
    with pytest.raises(
        ConfigError, match=rf"model\.size=\[{size[0]}, {size[1]}\]: .*multiples of {step}"
    ):
        load_pipeline(Model(path=path, size=size))


@pytest.mark.parametrize("size", [16, [16, 16], (16, 16)])
def test_one_number_is_a_square(size: Any) -> None:
    assert Model(size=size).size == (16, 16)


@pytest.mark.parametrize("name", KINDS)
def test_doctor_says_it_before(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_families.FOLDERS[name](), tmp_path / "model"))
    model_folder.check(folder, Sampler(), tiny_families.SIZE)
    component = model_folder.read_layout(folder).trained
    file = weights(folder, component)
    state = load_file(file)
    state.pop(min(state))
    save_file(state, file, {"format": "pt"})
    main(
        [
            "doctor",
            "--json",
            f"model.path={folder}",
            "model.size=16",
            "cluster.inline=true",
            f"output={tmp_path}",
        ]
    )
    (row,) = [row for row in json.loads(capfd.readouterr().out)["checks"] if row["name"] == "model"]
    assert row["state"] == "fail"
    assert f"{component} lacks 1 weights" in row["found"]


@pytest.mark.parametrize("name", KINDS[1:])
def test_attacks_that_need_a_vocabulary_say_so_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(name)
    save_adapter(tmp_path / "adapter", policy(chosen).adapter_state(), chosen)
    assert main(["attack", str(tmp_path / "adapter")]) == 2
    assert "attack is not for a" in capsys.readouterr().err


# -- FLUX's tokens ---------------------------------------------------------------------------------


def test_flux_packs_as_diffusers_does() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 6, 10)
    theirs = FluxPipeline._pack_latents(latents, 2, 16, 6, 10)
    assert torch.equal(pack(latents), theirs)
    assert torch.equal(unpack(theirs, 16, 6, 10), latents)
    expected = FluxPipeline._prepare_latent_image_ids(2, 3, 5, torch.device("cpu"), torch.float32)
    assert torch.equal(places(3, 5), expected)
