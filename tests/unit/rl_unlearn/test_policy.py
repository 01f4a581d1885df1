"""The policy against plain diffusers: the same images, the same guidance, and an adapter that
starts as nothing.
"""

import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from rl_unlearn import canvas
from rl_unlearn.config import Config, Model, Sampler
from rl_unlearn.errors import ConfigError, DataError, MachineError
from rl_unlearn.families.condition import Condition
from rl_unlearn.families.of import read_shape_and_kernel
from rl_unlearn.families.pipeline import device_of, load_pipeline
from rl_unlearn.noise import trajectory_noise
from rl_unlearn.policy import DiffusionPolicy

PROMPTS = [
    "A cat image in flat style.",
    "A dog image in noto style.",
    "A fish image in flat style.",
]
SEEDS = [3, 1, 2]


def policy(config: Config | None = None, **changes) -> DiffusionPolicy:
    config = config or tiny.config(**changes)
    return DiffusionPolicy(tiny.load_quickly(config.model), config)


def randomise(made: DiffusionPolicy, scale: float = 0.3) -> None:
    """Gives the adapter an effect: B starts at zero."""
    generator = torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))


def plain(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_repeated_rollout_is_bit_equal_whoever_makes_it(dtype):
    one = policy(model={"dtype": dtype})
    latents, log_probs, _ = one.rollout(one.encode(PROMPTS), SEEDS)
    torch.randn(3)  # the global generator plays no part
    again, log_probs_again, _ = one.rollout(one.encode(PROMPTS), SEEDS)
    assert torch.equal(latents, again)
    assert torch.equal(log_probs, log_probs_again)
    torch.manual_seed(123)
    other = policy(model={"dtype": dtype})
    assert torch.equal(latents, other.rollout(other.encode(PROMPTS), SEEDS)[0])
    assert latents.dtype == one.dtype
    assert log_probs.dtype == torch.float32
    assert latents.shape == (3, 5, *tiny.SHAPE)
    assert log_probs.shape == (3, 4)


def test_a_new_adapter_changes_nothing():
    made = policy()
    latents, *_ = made.rollout(made.encode(PROMPTS), SEEDS)
    with made.adapter_enabled(False):
        frozen, *_ = made.rollout(made.encode(PROMPTS), SEEDS)
    assert torch.equal(latents, frozen)


def test_a_disabled_adapter_is_the_untouched_model_and_comes_back():
    made = policy()
    embeddings = made.encode(PROMPTS)
    before = made.rollout(embeddings, SEEDS)[0]
    randomise(made)
    trained = made.rollout(embeddings, SEEDS)[0]
    assert not torch.equal(trained, before)
    with made.adapter_enabled(False):
        assert torch.equal(made.rollout(embeddings, SEEDS)[0], before)
    with pytest.raises(RuntimeError, match="inside"), made.adapter_enabled(False):
        raise RuntimeError("inside")
    assert torch.equal(made.rollout(embeddings, SEEDS)[0], trained)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_masters_are_fp32_and_alone_trainable(dtype):
    made = policy(model={"dtype": dtype})
    assert all(p.dtype == torch.float32 for p in made.parameters())
    trainable = [name for name, p in made.network.named_parameters() if p.requires_grad]
    assert len(trainable) == len(made.parameters()) > 0
    assert all(".lora_" in name and ".attn2." in name for name in trainable)
    frozen = {p.dtype for name, p in made.network.named_parameters() if ".lora_" not in name}
    assert frozen == {made.dtype}


@pytest.mark.parametrize(
    ("layers", "found"),
    [("cross", {"attn2"}), ("self", {"attn1"}), ("attention", {"attn1", "attn2"})],
)
def test_layers_chosen_by_name(layers, found):
    names = policy(lora={"layers": layers, "rank": 3}).adapter_state()
    assert {
        part
        for name in names
        for part in name.split(".")
        if part.startswith("attn") and part[4:].isdigit()
    } == found
    assert {t.shape[0] for name, t in names.items() if ".lora_A." in name} == {3}
    projections = {name.split("attn")[-1].split(".", 1)[1].split(".lora")[0] for name in names}
    assert projections == {"to_q", "to_k", "to_v", "to_out.0"}


@pytest.mark.parametrize("folder", [tiny.pipeline_folder, tiny.epsilon_folder])
def test_the_same_images_as_plain_diffusers_with_the_same_noise(folder):
    # The loop of a diffusers pipeline: its own scheduler, our noise.
    made = policy(sampler={"steps": 6}, model={"path": str(folder())})
    latents, *_ = made.rollout(made.encode(PROMPTS), SEEDS)
    pipeline = plain(folder())
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(6)
    noise = trajectory_noise(SEEDS, 6, tiny.SHAPE)
    with torch.no_grad():
        embeddings, _ = pipeline.encode_prompt(PROMPTS, torch.device("cpu"), 1, False)
        torch.testing.assert_close(made.encode(PROMPTS).text, embeddings)
        state = noise[:, 0]
        for k, t in enumerate(scheduler.timesteps):
            output = pipeline.unet(state, t, encoder_hidden_states=embeddings).sample
            state = scheduler.step(
                output, t, state, eta=1.0, variance_noise=noise[:, k + 1]
            ).prev_sample
            torch.testing.assert_close(latents[:, k + 1], state, atol=1e-5, rtol=1e-5)
        decoded = pipeline.vae.decode(state / pipeline.vae.config.scaling_factor).sample
        images = pipeline.image_processor.postprocess(decoded, output_type="pt")
    torch.testing.assert_close(made.generate(PROMPTS, SEEDS), images, atol=1e-5, rtol=1e-5)


def test_guidance_is_the_usual_extrapolation():
    made, single = policy(sampler={"guidance": 2.5}), policy()
    latents = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    embeddings = made.encode(PROMPTS)
    with torch.no_grad():
        conditional = single.predict(latents, 1, embeddings)
        unconditional = single.predict(latents, 1, single.encode(["", "", ""]))
        expected = unconditional + 2.5 * (conditional - unconditional)
        torch.testing.assert_close(
            made.predict(latents, 1, embeddings), expected, atol=1e-5, rtol=1e-4
        )
    assert not torch.allclose(expected, conditional, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_in_half_precision_guidance_is_not_rounded_again(dtype):
    made = policy(sampler={"guidance": 2.5}, model={"dtype": dtype})
    latents = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    told = Condition.cat([made.encode(["", "", ""]), made.encode(PROMPTS)])
    with torch.no_grad():
        answers = made.conditional(torch.cat([latents, latents]), 1, told)
        found = made.predict(latents, 1, made.encode(PROMPTS))
    assert answers.dtype == made.dtype
    without, conditional = answers.float().chunk(2)
    assert torch.equal(found, without + 2.5 * (conditional - without))
    assert not torch.equal(found, found.to(made.dtype).float()), "the test has lost its point"


def test_only_beside_half_precision_fp32_is_multiplied_in_tf32():
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    for dtype, expected in (("bf16", "tf32"), ("fp32", "ieee"), ("fp16", "tf32")):
        policy(model={"dtype": dtype})
        assert [backend.fp32_precision for backend in backends] == [expected] * 2


def test_gradients_flow_through_both_branches_of_guidance():
    made = policy(sampler={"guidance": 2.0})
    randomise(made)
    latents = torch.randn(2, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    same = made.encode(
        ["", ""]
    )  # conditional equals unconditional: the gradient of u + 2 (c - u) is that of one branch
    made.predict(latents, 0, same).square().sum().backward()
    guided = [p.grad.clone() for p in made.parameters()]
    single = policy()
    single.load_adapter(made.adapter_state())
    single.predict(latents, 0, same).square().sum().backward()
    for a, b in zip(guided, [p.grad for p in single.parameters()], strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_mixed_steps_equal_single_ones():
    made = policy()
    latents = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    embeddings = made.encode(PROMPTS)
    index = torch.tensor([2, 0, 3])
    with torch.no_grad():
        mixed = made.predict(latents, index, embeddings)
        for row, k in enumerate(index.tolist()):
            one = slice(row, row + 1)
            torch.testing.assert_close(
                mixed[one], made.predict(latents[one], k, embeddings[one]), atol=1e-5, rtol=1e-4
            )


def test_log_probs_of_a_rollout_are_those_of_its_steps():
    made = policy()
    embeddings = made.encode(PROMPTS)
    latents, log_probs, _ = made.rollout(embeddings, SEEDS)
    with torch.no_grad():
        for k in range(4):
            output = made.predict(latents[:, k], k, embeddings)
            _, again, _ = made.kernel.step(output, latents[:, k], k, action=latents[:, k + 1])
            assert torch.equal(again, log_probs[:, k])


def test_load_adapter_replaces_and_scales():
    one, other = policy(), policy(seed=1)
    randomise(one)
    other.load_adapter(one.adapter_state())
    embeddings = one.encode(PROMPTS)
    assert torch.equal(one.rollout(embeddings, SEEDS)[0], other.rollout(embeddings, SEEDS)[0])
    other.load_adapter(one.adapter_state(), scale=0.0)
    with one.adapter_enabled(False):
        assert torch.equal(one.rollout(embeddings, SEEDS)[0], other.rollout(embeddings, SEEDS)[0])
    other.load_adapter(one.adapter_state(), scale=0.5)
    for name, tensor in other.adapter_state().items():
        factor = 0.5 if ".lora_B." in name else 1.0
        torch.testing.assert_close(tensor, factor * one.adapter_state()[name])


def test_adapter_state_is_a_copy():
    made = policy()
    state = made.adapter_state()
    for tensor in state.values():
        tensor.fill_(7.0)
    assert all(not torch.all(t == 7.0) for t in made.adapter_state().values())


@pytest.mark.parametrize("change", [{"rank": 3}, {"layers": "attention"}])
def test_an_adapter_of_another_shape_is_refused(change):
    with pytest.raises(DataError, match="does not fit"):
        policy().load_adapter(policy(lora=change).adapter_state())


def test_generate_in_batches_and_bad_counts():
    made = policy()
    parts, whole = made.generate(PROMPTS, SEEDS, batch=2), made.generate(PROMPTS, SEEDS)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="3 prompts"):
        made.generate(PROMPTS, [1])


def test_long_prompt_lists_are_encoded_in_parts():
    made = policy()
    many = [f"{i}" for i in range(300)]
    found, expected = (
        made.encode(many)[torch.tensor([0, 256, 299])],
        made.encode(["0", "256", "299"]),
    )
    torch.testing.assert_close(found.text, expected.text, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("folder", "predicts_noise"), [(tiny.pipeline_folder, False), (tiny.epsilon_folder, True)]
)
def test_shape_and_kernel_from_the_folder_alone(folder, predicts_noise):
    config = tiny.config(model={"path": str(folder())})
    shape, kernel = read_shape_and_kernel(config)
    made = policy(config)
    assert shape == made.latent_shape == tiny.SHAPE
    tables = [field.name for field in fields(kernel) if field.name != "eta"]
    assert all(torch.equal(getattr(kernel, name), getattr(made.kernel, name)) for name in tables)
    assert bool((kernel.dirty == 1).all()) == predicts_noise
    assert made.dimensions == 256


# -- what is refused -------------------------------------------------------------------------------


def refused(model: Model, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_pipeline(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "nowhere", "~/none", "a/b/c"])
def test_a_missing_folder(path):
    refused(Model(path=path), "no folder")


def test_a_hub_id_that_cannot_be_had():
    refused(Model(path="no-such-owner/no-such-model"), "cannot be fetched")


def test_a_folder_of_something_else(tmp_path):
    refused(Model(path=str(tmp_path)), "model_index.json")


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.pipeline_folder(), tmp_path / "copy"))


def test_pickled_weights(tmp_path):
    folder = copied(tmp_path)
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.rename(folder / "unet" / "diffusion_pytorch_model.bin")
    refused(Model(path=str(folder)), "pickled")


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_pickled_weights_of_another_part(tmp_path, part):
    folder = copied(tmp_path)
    (weights,) = (folder / part).glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    refused(Model(path=str(folder)), f"only pickled weights, which are refused.* in {part}/")


def test_no_weights(tmp_path):
    folder = copied(tmp_path)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    refused(Model(path=str(folder)), r"no diffusion_pytorch_model.safetensors in unet/")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights(tmp_path, part):
    folder = copied(tmp_path)
    (weights,) = (folder / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    refused(
        Model(path=str(folder)),
        rf"{part}/.*safetensors (is no safetensors file|has 2000 bytes, not)",
    )


def test_a_broken_index(tmp_path):
    folder = copied(tmp_path)
    (folder / "model_index.json").write_text("{not json")
    refused(Model(path=str(folder)), "model_index.json holds no JSON object")


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has the GPU that the test wants absent"
)
def test_a_gpu_that_is_absent():
    for ask in (device_of, load_pipeline):
        with pytest.raises(MachineError, match="no usable GPU"):
            ask(Model(path=str(tiny.pipeline_folder()), device="cuda"))
    assert device_of(Model()) == device_of(Model(device="cpu")) == torch.device("cpu")


# -- the shipped canvas ----------------------------------------------------------------------------


def test_the_canvas_is_one_more_pipeline():
    config = Config()
    made = policy(config)
    prompts = [canvas.caption("cat", "noto"), canvas.caption("rocket", "flat")]
    images = made.generate(prompts, [0, 1])
    assert images.shape == (2, 3, canvas.IMAGE_SIZE, canvas.IMAGE_SIZE)
    assert images.std() > 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = plain(canvas.pipeline_path())
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(config.sampler.steps)
    noise = trajectory_noise([0, 1], config.sampler.steps, made.latent_shape)
    with torch.no_grad():
        embeddings, _ = pipeline.encode_prompt(prompts, torch.device("cpu"), 1, False)
        state = noise[:, 0]
        for k, t in enumerate(scheduler.timesteps):
            output = pipeline.unet(state, t, encoder_hidden_states=embeddings).sample
            state = scheduler.step(
                output, t, state, eta=1.0, variance_noise=noise[:, k + 1]
            ).prev_sample
        theirs = pipeline.vae.decode(state / pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(images, theirs.clamp(0, 1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_filled_up_tokens_change_nothing(guidance):
    # The canvas has 12 tokens a prompt, which the policy fills up to 16 on a CPU.
    config = Config(sampler=Sampler(guidance=guidance))
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    embeddings = policy.encode(["A cat image in noto style.", "A dog image."])
    assert policy.family._full_rows(embeddings.text)[0].shape[1] == 16
    latents = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps = policy.kernel.timesteps[torch.tensor([0, 7])]
    with torch.no_grad():
        found = policy.predict(latents, torch.tensor([0, 7]), embeddings)
        plain = policy.network(latents, timesteps, encoder_hidden_states=embeddings.text).sample
        without = policy.network(
            latents, timesteps, encoder_hidden_states=policy.encode(["", ""]).text
        ).sample
    torch.testing.assert_close(found, without + guidance * (plain - without), atol=1e-5, rtol=1e-5)
