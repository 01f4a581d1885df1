"""How noisy each estimator's policy gradient is, and whether the estimators agree on where to go.

    python -m experiments.benchmarks.gradients RUN [override ...]

RUN is a run folder: its configuration, its adapter (the policy that is measured) and its critic.
Every estimator that this critic serves sees the same rounds of trajectories, drawn by that policy.
One line for each:

``noise``: trace of the covariance of one round's gradient over the squared length of its mean; so
many rounds must be averaged until signal and noise are even. None where no signal is seen.
``signal``: that squared length over its own standard error (t of the pairs' products, by jackknife
over rounds). ``agrees``: cosine of the mean gradients with those of the estimators before, free of
the noise that both share; only between those whose signal is above two standard errors.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from experiments import settings
from learner.learner import Learner
from rl_unlearn.adapters.adapter import digest, read_adapter
from rl_unlearn.config import Config
from rl_unlearn.estimators import ESTIMATORS
from rl_unlearn.messages import Request, Weights
from rl_unlearn.prompts import PromptBook
from rl_unlearn.trajectory import Scored

_FORMER = 8
"""Rounds that only fill the running statistics of `terminal`."""
_ROUNDS = 32


def squared_mean(products: Float[Tensor, "rounds rounds"]) -> tuple[float, float]:
    """Unbiased estimate of the inner product of two means from all inner products but a round's
    with itself, and its standard error by jackknife over rounds.
    """
    count = len(products)
    off = products - products.diag().diag()
    total = off.sum()
    without = (total - off.sum(dim=0) - off.sum(dim=1)) / ((count - 1) * (count - 2))
    error = ((count - 1) / count * (without - without.mean()).square().sum()).sqrt()
    return (total / (count * (count - 1))).item(), error.item()


def gradients(config: Config, weights: Weights) -> Float[Tensor, "rounds parameters"]:
    """Returns one row for each round; retention plays no part."""
    rollout, critic, learner = RolloutActor(config), CriticActor(config), Learner(config)
    learner.policy.load_adapter(weights.state)
    book, rows = PromptBook.from_config(config), []
    for round in range(1, _FORMER + _ROUNDS + 1):
        prompts = book.draw(
            config.seed, round, config.rollout.images, config.prompts.target_fraction
        )
        trajectory = rollout.sample(Request(round, tuple(prompts), 0), weights)
        scored = Scored.of(trajectory, critic.score(trajectory, round))
        gradient = learner.gradient.of(scored)
        if round > _FORMER:
            rows.append(gradient)
    return torch.stack(rows).double()


def main(run: str, overrides: list[str]) -> None:
    """Prints one JSON object a line."""
    folder = Path(run)
    state = read_adapter(folder)
    # Version 0 whatever it is: the policy that draws is the one whose gradient is asked for.
    weights = Weights(0, state, digest(state))
    timed = settings.recorded(folder / "config.yaml").estimator.row.timed
    before: dict[str, tuple[Tensor, float]] = {}
    for name in (row.name for row in ESTIMATORS.values() if row.timed == timed):
        config = settings.recorded(
            folder / "config.yaml", [*overrides, f"estimator.name={name}", f"critic.start={folder}"]
        )
        rows = gradients(config, weights)
        signal, error = squared_mean(rows @ rows.T)
        noise = rows.square().sum(dim=1).mean().item() - signal
        seen = signal > 2 * error
        agrees = {
            other: round(squared_mean(rows @ theirs.T)[0] / (signal * size) ** 0.5, 2)
            for other, (theirs, size) in before.items()
            if seen
        }
        row = {
            "estimator": name,
            "noise": round(noise / signal, 1) if signal > 0 else None,
            "signal": round(signal / error, 1),
        }
        print(json.dumps(row | {"agrees": agrees}), flush=True)
        if seen:
            before[name] = rows, signal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="override",
        help="KEY=VALUE on top of the run's configuration",
    )
    args = parser.parse_args()
    main(args.run, args.overrides)
