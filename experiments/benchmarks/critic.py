"""What the critic knows after its warm-up: accuracy on images it has not seen, noise level by noise
level.

    python -m experiments.benchmarks.critic [--warm-ups] [override ...]

One line for each depth of the CLIP trunk or, with ``--warm-ups``, for each number of steps, taken
at the end or in as many parts as the warm-up has sample calls: CPU-seconds of the fit, and for some
noise levels (0 is pure noise) the share of unseen images whose object, and whose style, is the
likeliest by the critic's predicted outcomes. The prompt is withheld, so that the critic has to
look.
"""

import argparse
import json
import time
from pathlib import Path

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from experiments import settings
from learner.learner import Learner
from rl_unlearn.config import Config, Reward
from rl_unlearn.evaluation.metrics import asked_labels
from rl_unlearn.messages import Request, Weights
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import DOMAINS, outcome_names
from rl_unlearn.trajectory import Trajectory

_UNSEEN = 320
_DEPTHS = (0, 1, 2, 4)
_STEPS = (100, 200, 400)


def _images(
    actor: RolloutActor, weights: Weights, prompts: list[int], round: int, batch: int
) -> Trajectory:
    chunks = range(0, len(prompts), batch)
    return Trajectory.cat(
        [actor.sample(Request(round, tuple(prompts[i : i + batch]), i), weights) for i in chunks]
    )


def accuracy(
    actor: CriticActor, unseen: Trajectory, book: PromptBook, reward: Reward, level: int
) -> dict[str, float]:
    """Returns the percent of the images whose class is the likeliest, for each domain."""
    predicted = actor.predict(unseen.latents[:, level], level)
    asked = asked_labels(unseen.prompts, book)
    names, percent = outcome_names(book, reward), {}
    for domain in DOMAINS:
        columns = [
            place for place, name in enumerate(names) if name.startswith(f"log-prob {domain} ")
        ]
        right = predicted[:, columns].argmax(dim=1) == asked[domain]
        percent[domain] = round(100 * right.float().mean().item(), 1)
    return percent


def main(overrides: list[str], warm_ups: bool) -> None:
    """Prints one JSON object a line."""
    canvas = str(Path(__file__).parents[1] / "configs" / "canvas.yaml")
    config: Config = settings.load([canvas], overrides)
    book = PromptBook.from_config(config)
    rollout, weights = RolloutActor(config), Learner(config).weights()
    warm_up = book.draw(
        config.seed, 0, config.critic.warmup_images, config.critic.warmup_target_fraction
    )
    seen = _images(rollout, weights, warm_up, 0, config.rollout.batch)
    unseen = _images(
        rollout, weights, [i % len(book.prompts) for i in range(_UNSEEN)], 1, config.rollout.batch
    )
    size, images = config.rollout.batch, config.critic.warmup_images
    whole, parts = [seen], [seen[start : start + size] for start in range(0, images, size)]
    variants: list[tuple[dict[str, int], str, list[Trajectory]]] = [
        ({"layers": layers}, f"critic.layers={layers}", whole) for layers in _DEPTHS
    ]
    if warm_ups:
        variants = [
            ({"steps": steps, "parts": len(given)}, f"critic.warmup_steps={steps}", given)
            for steps in _STEPS
            for given in (whole, parts)
        ]
    for row, override, given in variants:
        critic = CriticActor(settings.load([canvas], [*overrides, override]))
        start = time.process_time()
        for number, part in enumerate(given):
            critic.warm_up(part, number, len(given))
        seconds = {"cpu_seconds": round(time.process_time() - start, 1)}
        levels = sorted({*range(0, config.sampler.steps, 2), config.sampler.steps})
        known = {f"level {k}": accuracy(critic, unseen, book, config.reward, k) for k in levels}
        print(json.dumps(row | seconds | known), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="override", help="KEY=VALUE on top of canvas.yaml"
    )
    parser.add_argument("--warm-ups", action="store_true", help="by steps and parts of the warm-up")
    arguments = parser.parse_args()
    main(arguments.overrides, arguments.warm_ups)
