"""Images by diffusers' schedulers: those of its own pipelines, from the kernel's noise."""

import itertools
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import tiny_families
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from tiny_policies import PROMPTS, config, policy

from rl_unlearn import canvas
from rl_unlearn.config import Config
from rl_unlearn.config.judging import SchedulerName
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.flux import pack
from rl_unlearn.layouts.schedulers import FLOW_MATCHING, VARIANCE_PRESERVING, Schedule
from rl_unlearn.models import model_folder
from rl_unlearn.noise import generator, trajectory_noise
from rl_unlearn.policy import DiffusionPolicy

SEEDS = [3, 1]
FLOWS = tiny_families.KINDS[2:]


def first(kinds: list[str]) -> list[Any]:
    """The kinds, of which all but the first are shown among the long tests."""
    return [kinds[0], *(pytest.param(kind, marks=pytest.mark.long) for kind in kinds[1:])]


def plain(folder: Path, name: str) -> Any:
    """The pipeline of a user of diffusers who has changed its scheduler in the usual way."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    chosen = VARIANCE_PRESERVING[name]
    pipeline.scheduler = getattr(diffusers, chosen.kind).from_config(
        pipeline.scheduler.config, **chosen.settings
    )
    return pipeline


def drawn_by(pipeline: Any, start: torch.Tensor, steps: int, **asked: Any) -> torch.Tensor:
    images: torch.Tensor = pipeline(
        prompt=[*PROMPTS],
        num_inference_steps=steps,
        latents=start,
        generator=[generator("scheduler", seed) for seed in SEEDS],
        output_type="pt",
        **asked,
    ).images
    return images


def test_a_setting_can_name_whatever_a_model_has() -> None:
    known = set(SchedulerName.__args__)
    assert known == VARIANCE_PRESERVING.keys()
    assert known > FLOW_MATCHING.keys()
    kinds = {layout.pipeline: layout.schedulers for layout in model_folder.LAYOUTS.values()}
    for name, schedulers in kinds.items():
        flows = not name.startswith(("StableDiffusionPipeline", "StableDiffusionXL"))
        assert schedulers is (FLOW_MATCHING if flows else VARIANCE_PRESERVING), name


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_canvas_draws_what_its_pipeline_draws(name: str) -> None:
    """With guidance, in other steps than those that it is trained in."""
    made = policy(Config(sampler={"guidance": 2.0}))
    ours = made.generate(PROMPTS, SEEDS, schedule=Schedule(name, 12))
    start = trajectory_noise(SEEDS, 10, made.latent_shape)[:, 0]
    pipeline = plain(canvas.pipeline_path(), name)
    assert isinstance(pipeline, StableDiffusionPipeline)
    theirs = drawn_by(pipeline, start, 12, guidance_scale=2.0)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["dpm++", "euler-a"])
def test_sdxl_draws_what_its_pipeline_draws(name: str) -> None:
    made = policy(config("sdxl", sampler={"steps": 4, "guidance": 3.0}))
    ours = made.generate(PROMPTS, SEEDS, schedule=Schedule(name, 6))
    start = trajectory_noise(SEEDS, 4, made.latent_shape)[:, 0]
    height, width = tiny_families.SIZE
    theirs = drawn_by(
        plain(tiny_families.FOLDERS["sdxl"](), name), start, 6, guidance_scale=3.0,
        height=height, width=width,
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def final(made: DiffusionPolicy, name: str, steps: int) -> torch.Tensor:
    return made.denoise(made.encode(PROMPTS), SEEDS, Schedule(name, steps))


@pytest.mark.parametrize("kind", ["stable_diffusion", *first(FLOWS)])
def test_the_kernel_without_noise_is_ddim_and_of_flows_euler(kind: str) -> None:
    made = policy(config(kind, sampler={"steps": 6, "eta": 1e-9, "guidance": 2.0}))
    ours = made.rollout(made.encode(PROMPTS), SEEDS)[0][:, -1]
    theirs = final(made, "euler" if kind in FLOWS else "ddim", 6)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", first(FLOWS))
def test_dpm_of_a_flow_is_what_its_paper_says(kind: str) -> None:
    """Lu et al. 2022, arXiv 2211.01095, algorithm 2, whose first and last steps are of the first
    order; levels are the kernel's.
    """
    made = policy(config(kind, sampler={"steps": 6, "guidance": 1.0}))
    condition, kernel = made.encode(PROMPTS), made.kernel
    noises = torch.cat([kernel.noise, kernel.noise_next[-1:]]).tolist()
    state = trajectory_noise(SEEDS, 6, made.latent_shape)[:, 0]
    width, before = math.inf, torch.zeros_like(state)
    for step, (noise, following) in enumerate(itertools.pairwise(noises)):
        with torch.no_grad():
            x0 = state - noise * made.predict(state, step, condition)
        last, width = width, log_snr(following) - log_snr(noise)
        first_order = step in (0, 5) or math.isinf(last)
        data = x0 if first_order else x0 + width / (2 * last) * (x0 - before)
        state = following / noise * state - (1 - following) * math.expm1(-width) * data
        before = x0
    torch.testing.assert_close(final(made, "dpm++", 6), state, atol=1e-5, rtol=1e-5)


def log_snr(noise: float) -> float:
    """Half of it, of a flow with this share of noise."""
    if noise in (0.0, 1.0):
        return math.inf if noise == 0 else -math.inf
    return math.log((1 - noise) / noise)


def test_flux_draws_by_eulers_steps_what_its_pipeline_draws() -> None:
    made = policy(config("flux", sampler={"guidance": 3.0}))
    start = pack(trajectory_noise(SEEDS, len(made.kernel), made.latent_shape)[:, 0])
    pipeline = DiffusionPipeline.from_pretrained(tiny_families.FOLDERS["flux"]())
    pipeline.set_progress_bar_config(disable=True)
    height, width = tiny_families.SIZE
    theirs = drawn_by(pipeline, start, 5, guidance_scale=3.0, height=height, width=width)
    ours = made.generate(PROMPTS, SEEDS, schedule=Schedule("euler", 5))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dpm++", "euler-a"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_image_is_its_seeds_own(name: str, dtype: str) -> None:
    """Whoever else is drawn beside it, and however often: a scheduler counts its steps."""
    made = policy(tiny.config(model={"dtype": dtype}))
    both = made.generate(PROMPTS, SEEDS, schedule=Schedule(name, 4))
    assert torch.equal(both, made.generate(PROMPTS, SEEDS, schedule=Schedule(name, 4)))
    for row, seed in enumerate(SEEDS):
        alone = made.generate([PROMPTS[row]], [seed], schedule=Schedule(name, 4))
        atol = 1e-5 if dtype == "fp32" else 0.05
        torch.testing.assert_close(alone[0], both[row], atol=atol, rtol=0)
    assert not torch.equal(both, made.generate(PROMPTS, SEEDS))
    others = made.generate(PROMPTS, [5, 6], schedule=Schedule(name, 4))
    assert not torch.allclose(both, others, atol=0.01)


def test_what_a_model_has_not_is_refused_in_words() -> None:
    folder = tiny_families.FOLDERS["sd3"]()
    model_folder.check_schedule(folder, None)
    model_folder.check_schedule(folder, Schedule("euler", 10))
    with pytest.raises(ConfigError, match="euler-a is not for a StableDiffusion3Pipeline: use dpm"):
        model_folder.check_schedule(folder, Schedule("euler-a", 10))
    with pytest.raises(ConfigError, match="steps=1000 must be below the 1000 steps"):
        model_folder.check_schedule(folder, Schedule("euler", 1000))
    with pytest.raises(ConfigError, match="ddim is not for"):
        policy(config("sd3")).generate(PROMPTS, SEEDS, schedule=Schedule("ddim", 4))
