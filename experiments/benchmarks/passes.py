"""One pass of each kind at the configured size: ratios, rounding, FLOPs, memory and speed.

Each function takes a configuration and returns what it found; on a CPU memory is None.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from experiments.benchmarks import half_on_cpu
from experiments.benchmarks.rounding import measure
from experiments.plan.counting import counter
from experiments.plan.make import TERA, make
from learner.learner import Learner
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError
from rl_unlearn.families.compiled import compile_blocks
from rl_unlearn.families.pipeline import load_pipeline
from rl_unlearn.messages import Request
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.states import choose

T = TypeVar("T")
_ODD = 3
"""Rows of a pass that has another shape than the rollout's."""
_TURNS = 3
"""Times that something is timed after its warm-up."""
_FITS = 4
"""Steps of the critic that are timed."""


def peak() -> int | None:
    """Returns the most bytes of GPU memory that torch held at once since :func:`release`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def release() -> None:
    """Gives back what nobody holds any more, and counts the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Returns what the work gives, and its seconds."""
    start = time.monotonic()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.monotonic() - start


def ratio(config: Config) -> dict[str, Any]:
    """Returns the largest absolute joint log-ratio in nats before any update, over all learned
    steps.

    Computed in passes of as many rows as the configuration says, and of another number of rows.
    """
    learner, actor = Learner(config), RolloutActor(config)
    actor.share_frozen(learner.policy)
    learned = learner.policy.kernel.learned
    sizes = {"as configured": config.learner.microbatch, "of another shape": _ODD}
    ratios_by_shape: dict[str, Any] = {"states": config.rollout.batch * len(learned)}
    with half_on_cpu.quick():
        trajectory = actor.sample(_request(actor, config.rollout.batch), learner.weights())
        for name, rows in sizes.items():
            ratios = learner.gradient.log_ratios(trajectory, rows)
            ratios_by_shape[f"largest log-ratio, {name}"] = ratios.abs().max().item()
    return ratios_by_shape


def floors(load: Callable[..., Config], states: int) -> dict[str, Any]:
    """Measures K0 by number type at the configured guidance; ``load`` takes overrides.

    On a GPU fp32 is looked at twice: as it is, and with products in TF32, which it does without.
    """
    kinds: dict[str, tuple[str, Literal["tf32"] | None]] = {"fp32": ("fp32", None)}
    if torch.cuda.is_available():
        kinds |= {"fp32 with TF32": ("fp32", "tf32")}
    kinds |= {"fp16": ("fp16", None), "bf16": ("bf16", None)}
    by_kind: dict[str, Any] = {}
    for name, (dtype, products) in kinds.items():
        release()
        with half_on_cpu.quick():
            by_kind[name] = measure(load(f"model.dtype={dtype}"), False, states, products)
    return by_kind


def rollouts(config: Config) -> dict[str, Any]:
    """Times a rollout beside the same images of the pipeline in plain diffusers, without adapter.

    Both take turns, compiled alike if the configuration says so, after one warm-up each; of their
    seconds the medians. ``of_products`` is the share of the FLOP/s that one large matrix product of
    this type reaches on this device.
    """
    quick = contextlib.nullcontext() if config.model.compile else half_on_cpu.quick()
    with quick:
        return _rollouts(config)


def _rollouts(config: Config) -> dict[str, Any]:
    images, steps = config.rollout.batch, config.sampler.steps
    policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
    seeds, prompts = list(range(images)), ["A photo of a cat."] * images
    condition = policy.encode(prompts)
    policy.free_text_encoders()
    plain = load_pipeline(config.model, config.sampler).to(policy.device)
    network = getattr(plain, policy.family.trained).to(memory_format=torch.channels_last)
    if config.model.compile:
        compile_blocks(network)
    height, width = (policy.family.autoencoder.scale * side for side in policy.latent_shape[1:])

    def bare() -> object:
        return plain(
            prompts, height, width, num_inference_steps=steps, output_type="latent",
            guidance_scale=config.sampler.guidance,
        )  # fmt: skip

    seconds: dict[str, list[float]] = {"rollout": [], "bare diffusers": []}
    for _ in range(1 + _TURNS):
        for name, work in (
            ("rollout", lambda: policy.rollout(condition, seeds)),
            ("bare diffusers", bare),
        ):
            seconds[name].append(timed(work)[1])
    done = images * steps * make(config, evaluated=False)["flops"]["guided forward of one image"]
    products = _products_per_second(policy.device, policy.dtype)
    by_kind: dict[str, Any] = {"product_tflops": products / TERA}
    for name, (first, *others) in seconds.items():
        usual = statistics.median(others)
        by_kind[name] = {
            "images_per_second": images / usual, "tflops": done / usual / TERA,
            "of_products": done / usual / products, "first_seconds": first,
        }  # fmt: skip
    pairs = zip(seconds["rollout"][1:], seconds["bare diffusers"][1:], strict=True)
    return by_kind | {"rollout / bare, speed": statistics.median(b / a for a, b in pairs)}


def _products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a large product of two matrices."""
    side = 8192 if device.type == "cuda" else 512
    factor = torch.ones(side, side, device=device, dtype=dtype)
    factor @ factor
    release()
    _, seconds = timed(lambda: [factor @ factor for _ in range(_TURNS)])
    return _TURNS * 2 * side**3 / seconds


def flops(config: Config) -> dict[str, Any]:
    """FLOPs of a guided forward of one image, counted as it is computed and as planned."""
    actor = RolloutActor(config)
    policy, condition = actor.policy, actor.conditions[:1]
    latents = torch.randn(1, *policy.latent_shape)
    with torch.no_grad(), half_on_cpu.quick(), counter() as count:
        policy.predict(latents, torch.tensor([1]), condition)
    planned = make(config, evaluated=False)["flops"]["guided forward of one image"]
    counted = count.get_total_flops()
    return {"counted": counted, "planned": planned, "ratio": counted / planned}


def roles(load: Callable[..., Config]) -> dict[str, Any]:
    """Peak memory and speed of each role alone, beside the plan's; ``load`` takes overrides.

    TFLOP/s are of the FLOPs that the plan counts.
    """
    with half_on_cpu.quick():
        return _roles(load)


def _roles(load: Callable[..., Config]) -> dict[str, Any]:
    config = load("learner.checkpointing=off", f"critic.steps={_FITS}", "critic.rehearsal=0")
    plans = {
        setting: make(load(f"learner.checkpointing={setting}"), evaluated=False)
        for setting in ("off", "on")
    }
    work, images = plans["off"]["flops"], config.rollout.batch
    drawing = images * config.sampler.steps * work["guided forward of one image"]
    roles_measured: dict[str, Any] = {}

    def note(
        name: str,
        role: str,
        moment: str,
        seconds: float,
        images: int,
        done: float,
        setting: str = "off",
    ) -> None:
        need, measured = plans[setting]["memory"]["roles"][role], peak()
        moments = [size for label, size in need["moments"].items() if label.startswith(moment)]
        planned = sum(need["lasting"].values()) + moments[0]
        roles_measured[name] = {
            "bytes": measured, "planned_bytes": planned,
            "ratio": measured / planned if measured else None, "seconds": seconds,
            "images_per_second": images / seconds, "tflops": done / seconds / TERA,
        }  # fmt: skip

    start = Learner(config).weights()
    actor = RolloutActor(config)
    conditions = actor.conditions[torch.arange(images) % len(actor.conditions)]
    release()
    (latents, *_), seconds = timed(lambda: actor.policy.rollout(conditions, list(range(images))))
    note("rollout", "rollout", "drawing", seconds, images, drawing)
    release()
    _, seconds = timed(lambda: actor.policy.decode(latents[:, -1]).cpu())
    whole = images * work["one image"]
    note("decode", "rollout", "decoding", seconds, images, whole - drawing)
    release()
    trajectory, seconds = timed(lambda: actor.sample(_request(actor, images), start))
    note("sample with its reward", "rollout", "drawing", seconds, images, whole)
    del actor, latents, conditions
    release()
    critic = CriticActor(config)
    states = choose(
        trajectory, _FITS * config.critic.fresh, config.critic.renoised, generator("states")
    )
    critic.fit(states, 0)
    _, seconds = timed(lambda: critic.fit(states, 1))
    fits = _FITS * work["one step of the critic"]
    note("critic fit", "critic", "kept", seconds, _FITS * config.critic.minibatch, fits)
    images = config.learner.batch
    batch = trajectory[torch.arange(images)]
    scores = critic.score(batch, 0)
    del critic
    for name, setting in (("learner, checkpointed", "on"), ("learner", "off")):
        release()
        learner = Learner(load(f"learner.checkpointing={setting}"))
        release()
        try:
            learner.update(batch, scores)
            _, seconds = timed(lambda: learner.update(batch, scores))  # noqa: B023
        except MachineError as error:  # the card is too small for one of the two
            roles_measured[name] = {"refused": str(error)}
        else:
            done = images * plans[setting]["flops"]["learner update of one image"]
            note(name, "learner", "kept", seconds, images, done, setting)
        del learner
    return roles_measured


def _request(actor: RolloutActor, images: int) -> Request:
    return Request(1, tuple(i % len(actor.conditions) for i in range(images)), 0)
