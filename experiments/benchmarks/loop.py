"""Images a second: plain sampling by two one-thread processes, and the canvas's actor-learner loop
on Ray.

    python -m experiments.benchmarks.loop

The loop's figure covers rollout, scoring, critic fitting, retention and one pass of the learner
over every step of every image; start-up and warm-up are left out. Its modes take turns, three times
each; figures are medians.
"""

import argparse
import itertools
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments import settings
from learner.events import Event, Round
from rl_unlearn.config import Config

_BATCH = 64
_BATCHES = 5
_ROUNDS = 16
_TURNS = 3
MODES = {
    "in turn": ["loop.pipeline=0"],
    "a round ahead": ["loop.pipeline=1"],
    "asynchronous": ["loop.pipeline=1", "loop.mode=async"],
}


def _sample(process: int) -> float:
    """Seconds of one process for its batches, the first one (warm-up) not counted."""
    import torch

    from rl_unlearn.families.pipeline import load_pipeline
    from rl_unlearn.policy import DiffusionPolicy
    from rl_unlearn.prompts import PromptBook

    torch.set_num_threads(1)
    config = Config()
    policy = DiffusionPolicy(load_pipeline(config.model), config)
    texts = [p.text for p in PromptBook.from_config(config).prompts][:_BATCH]
    policy.generate(texts, list(range(_BATCH)))
    start = time.monotonic()
    for batch in range(_BATCHES):
        policy.generate(texts, [process * 10**6 + batch * _BATCH + i for i in range(_BATCH)])
    return time.monotonic() - start


def sampling() -> float:
    """Images a second of two one-thread processes together."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        seconds = list(pool.map(_sample, range(2)))
    return 2 * _BATCH * _BATCHES / max(seconds)


def loop(mode: str) -> float:
    """Images a second of the loop in one of MODES, by the median time of a round after the first
    two.
    """
    from cluster.program import train

    canvas = Path(__file__).parents[1] / "configs" / "canvas.yaml"
    short = [f"loop.rounds={_ROUNDS}", f"selection.every={_ROUNDS}", "selection.images=2"]
    config = settings.load([str(canvas)], short + MODES[mode])
    ends: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Round):
            ends.append(event.seconds)

    train(config, on_event)
    return config.rollout.images / statistics.median(b - a for a, b in itertools.pairwise(ends[2:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    turns = [{mode: loop(mode) for mode in MODES} for _ in range(_TURNS)]
    medians = {mode: statistics.median(turn[mode] for turn in turns) for mode in MODES}
    print(
        json.dumps(
            {
                "sampling_images_per_second": sampling(),
                "loop_images_per_second": medians,
                "turns": turns,
            }
        )
    )
