"""The floor of rounding: the KL that a change of no consequence shows, by number type and guidance.

    python -m experiments.benchmarks.rounding [override ...] [--types T ...] \\
        [--guidance W ...] [--states N]
    python -m experiments.benchmarks.rounding [override ...] --random SIZE [...]
    python -m experiments.benchmarks.rounding [override ...] --autocast [...]

The first measures the model of the configuration, the canvas's with the overrides, at states of its
own. The second takes a UNet of Stable Diffusion 1.5's shape with random weights, for latents of
SIZE x SIZE (64 for images of 512 pixels): its answers are scaled to the size of unit noise, which a
trained one's have, and its states are noise. ``--autocast`` computes under torch's autocast, which
the policy does without, for comparison.

One line for each type and guidance. ``answer`` is the root mean square of what rounding does to the
guided answer of the network; a step's KL is its square times a factor of the schedule. ``K0`` is
the mean over all learned steps, which budgets are held against, ``least`` and ``most`` are those of
single steps, and ``budget`` is the smallest that is taken. All of them follow from the answers at N
states, whose steps are evenly spread over the learned ones.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from experiments import settings
from experiments.benchmarks import random_models
from learner.rounding import MARGIN, drawn_anew
from rl_unlearn.config import Config
from rl_unlearn.families.pipeline import DTYPES, device_of, load_pipeline, set_products
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

_SEED = 0


def measure(
    config: Config,
    drawn_by_model: bool,
    count: int,
    products: Literal["ieee", "tf32"] | None = None,
) -> dict[str, float]:
    """Returns the figures of one line; ``drawn_by_model``: its states are, rather than noise.

    ``products``: how a GPU multiplies fp32, if not as the policy says.
    """
    policy = DiffusionPolicy(load_pipeline(config.model, config.sampler), config)
    if products is not None:
        set_products(products)
    kernel, learned = policy.kernel, policy.kernel.learned
    texts = [prompt.text for prompt in PromptBook.from_config(config).prompts][:count]
    embeddings = policy.encode(texts)
    steps = learned[((torch.arange(count) + 0.5) / count * len(learned)).long()]
    prompts = torch.arange(count) % len(texts)
    if drawn_by_model:
        drawn, *_ = policy.rollout(embeddings[prompts], list(range(count)))
        latents = drawn[torch.arange(count), steps]
    else:
        draw = torch.Generator().manual_seed(_SEED)
        x0, eps = (torch.randn(count, *policy.latent_shape, generator=draw) for _ in range(2))
        latents = kernel.noisy(x0, eps, steps).to(policy.dtype)
    kl = drawn_anew(
        policy, embeddings, latents, steps, prompts, at_once=config.learner.microbatch, seed=_SEED
    )
    # The KL of each step where the answer is off by 1 everywhere.
    ones, state = (
        torch.ones(len(learned), *policy.latent_shape),
        torch.zeros(len(learned), *policy.latent_shape),
    )
    factors = kernel.kl(
        kernel.mean(ones, state, learned), kernel.mean(0 * ones, state, learned), learned
    )
    squared = (kl / factors[(steps[:, None] == learned).int().argmax(dim=1)]).mean()
    of_step = factors * squared
    return {
        "dimensions": policy.dimensions, "answer": squared.sqrt().item(),
        "K0": of_step.mean().item(),
        "least": of_step.min().item(), "most": of_step.max().item(),
        "budget": MARGIN * of_step.mean().item(),
    }  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """Prints one line for each type and guidance as soon as it is known."""
    canvas = str(Path(__file__).parents[1] / "configs" / "canvas.yaml")
    with tempfile.TemporaryDirectory() as folder:
        overrides = list(arguments.overrides)
        if arguments.random:
            random_models.save_pipeline(Path(folder), "sd15", 8 * arguments.random)
            overrides = [
                f"model.path={folder}",
                "sampler.steps=30",
                "learner.microbatch=1",
                *overrides,
            ]
        print(
            f"{'type':6}{'guidance':>10}{'D':>8}{'answer':>10}{'K0':>10}"
            f"{'least':>10}{'most':>10}{'budget':>10}  s"
        )
        for kind in arguments.types:
            for guidance in arguments.guidance:
                asked = [*overrides, f"model.dtype={kind}", f"sampler.guidance={guidance}"]
                config = settings.load([canvas], asked)
                torch.set_num_threads(config.cluster.threads)
                start = time.monotonic()
                device, dtype = device_of(config.model), DTYPES[kind]
                with torch.autocast(device.type, dtype, enabled=arguments.autocast):
                    figures = measure(config, not arguments.random, arguments.states)
                columns = "".join(
                    f"{figures[name]:>10.2g}"
                    for name in ("answer", "K0", "least", "most", "budget")
                )
                seconds = time.monotonic() - start
                print(
                    f"{kind:6}{guidance:>10g}{figures['dimensions']:>8.0f}{columns}  {seconds:.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--random", type=int, metavar="SIZE", help="a random UNet of Stable Diffusion 1.5's shape"
    )
    parser.add_argument("--autocast", action="store_true", help="under torch's autocast")
    parser.add_argument("--states", type=int, default=16, help="states to look at (16)")
    parser.add_argument(
        "--types", nargs="+", default=["bf16", "fp16"], help="number types (bf16 fp16)"
    )
    parser.add_argument(
        "--guidance", nargs="+", type=float, default=[1.0, 5.0], help="guidance scales (1 5)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="override", help="KEY=VALUE on top of canvas.yaml"
    )
    main(parser.parse_args())
