"""What a round computes, role by role, and which share of what this machine can compute each role
reaches.

    python -m experiments.benchmarks.limit [override ...]

FLOPs are those that `train --plan` counts for the canvas's configuration. Each role works alone on
one thread, as an actor does; the fewest CPU-seconds of a few calls count (on a GPU, the time). Two
limits stand beside it: one large matrix product, and the role's network's own convolutions and
linear layers, one by one, in the shapes that the role gives them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from actors.critic import CriticActor
from actors.rollout import RolloutActor
from experiments import settings
from experiments.benchmarks import command, equal_work, machine
from experiments.benchmarks.attainable import Rate, best, matrix_product, products
from experiments.benchmarks.loop import CANVAS
from experiments.files import write_json
from experiments.plan import costs, hollow
from learner.learner import Learner
from rl_unlearn.config import Config
from rl_unlearn.families.pipeline import DTYPES
from rl_unlearn.messages import Request
from rl_unlearn.noise import generator
from rl_unlearn.prompts import PromptBook
from rl_unlearn.states import choose

GIGA = 1e9
_CALLS = 5


def planned(config: Config) -> costs.Costs:
    """Returns what the plan counts of one of each thing."""
    model = hollow.build(config, "cuda" if torch.cuda.is_available() else "cpu")
    return costs.of(config, PromptBook.from_config(config), model)


def flops(config: Config, counted: costs.Costs) -> dict[str, float]:
    """Returns the FLOPs of a round by role; a validation counts by its share of the rounds."""
    updates = config.learner.updates_per_round
    learner = config.learner
    held = learner.kl_states + (learner.anchor_states if learner.anchor_weight else 0)
    update = costs.by_role(counted, held)
    return {
        "rollout": config.rollout.images * counted.sample,
        **{role: updates * count for role, count in update.items()},
        "validations": config.selection.images * counted.validation / config.selection.every,
    }


def measure(config: Config, calls: int = _CALLS) -> dict[str, dict[str, float]]:
    """Returns FLOPs and seconds of a round, by role, and the rate of the role's own products.

    Validations are rollouts that another CLIP sees, too: only their FLOPs are there.
    """
    counted = planned(config)
    work, updates = flops(config, counted), config.learner.updates_per_round
    learner, actor = Learner(config), RolloutActor(config)
    weights, images = learner.weights(), config.rollout.images
    asked = equal_work.prompts(config, 1)
    request = Request(1, tuple(asked * (1 + config.learner.batch // images)), 0)
    batch = actor.sample(request, weights)[torch.arange(config.learner.batch)]
    learner.make_pool(batch)
    critic = CriticActor(config)
    scores = critic.score(batch, 0)
    drawn = config.critic.steps * config.critic.fresh
    states = choose(batch, drawn, config.critic.renoised, generator("limit"))
    critic.warm_up(batch)
    fits = iter(range(1, 2 + calls))
    round = Request(1, tuple(asked), 0)
    seconds = {
        "rollout": best(lambda: actor.sample(round, weights), calls),
        "critic, fit": updates * best(lambda: critic.fit(states, next(fits)), calls),
        "critic, score": updates * best(lambda: critic.score(batch, 0), calls),
        "learner": updates * best(lambda: learner.update(batch, scores), calls),
    }
    alone = _products(config, counted, learner, actor)
    return {
        role: {"flops": work[role]}
        | ({"seconds": seconds[role], "products": alone[role].per_second} if role in alone else {})
        for role in work
    }


def _products(
    config: Config, counted: costs.Costs, learner: Learner, actor: RolloutActor
) -> dict[str, Rate]:
    """Returns the rates of the networks' own products, in the shapes of each role."""

    def passed(policy: Any, count: int) -> None:
        conditions = actor.conditions[torch.arange(count) % len(actor.conditions)]
        policy.predict(
            torch.randn(count, *policy.latent_shape), torch.zeros(count).long(), conditions
        )

    with torch.no_grad():
        count = min(config.rollout.batch, config.rollout.images)
        rates = {"rollout": products(actor.policy.network, lambda: passed(actor.policy, count))}
    policy, count = learner.policy, config.learner.microbatch
    rates["learner"] = products(policy.network, lambda: passed(policy, count))
    if counted.critic is None:
        return rates
    network: Any = counted.critic.network.to_empty(device=policy.device)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.normal_(0, 0.02)

    def judged(count: int, moves: bool) -> None:
        latents = torch.randn(count, *policy.latent_shape, device=policy.device)
        told = torch.zeros(count, network.condition.in_features, device=policy.device)
        network(latents.requires_grad_(moves), torch.zeros(count, device=policy.device), told)

    network.requires_grad_(True)
    rows, asked = config.critic.minibatch, config.estimator.row.gradients
    fit = products(network, lambda: judged(rows, False))
    network.requires_grad_(False)
    with torch.no_grad():
        value = products(network, lambda: judged(rows, False))
    slope = products(network, lambda: judged(rows, True))
    states = 0 if asked == "actions" else config.sampler.steps + 1
    actions = counted.chosen if asked else 0
    return rates | {"critic, fit": fit, "critic, score": value.times(states) + slope.times(actions)}


def shares(roles: dict[str, dict[str, float]], large: float) -> dict[str, Any]:
    """Adds the rate of each role and its shares of both limits, and sums up the round."""
    rows: dict[str, Any] = {}
    for role, row in roles.items():
        rows[role] = dict(row)
        if "seconds" in row:
            rate = row["flops"] / row["seconds"]
            rows[role] |= {
                "rate": rate, "of_products": rate / row["products"],
                "of_large_product": rate / large,
            }  # fmt: skip
    measured = [row for row in roles.values() if "seconds" in row]
    seconds = sum(row["seconds"] for row in measured)
    least = sum(row["flops"] / row["products"] for row in measured)
    return {
        "roles": rows,
        "seconds": seconds,
        "seconds_of_products": least,
        "of_products": least / seconds,
    }


def main(argv: list[str]) -> int:
    """Measures and writes; returns the exit code."""
    arguments = _parse(argv)
    return command.run(lambda: _measure_and_write(arguments, argv))


def _measure_and_write(arguments: argparse.Namespace, argv: list[str]) -> int:
    config = settings.load([str(CANVAS)], arguments.overrides)
    head = machine.head("limit", argv)
    torch.set_num_threads(config.cluster.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = matrix_product(device, DTYPES[config.model.dtype]).per_second
    found = shares(measure(config), large)
    write_json(Path(arguments.out), head | {"large_product": large} | found)
    print(f"one large product: {large / GIGA:.0f} GFLOP/s")
    titles = ("GFLOP", "seconds", "GFLOP/s", "own products", "of these", "of the large")
    print(f"{'a round':16}" + "".join(f"{title:>14}" for title in titles))
    for role, row in found["roles"].items():
        print(f"{role:16}" + "".join(f"{cell:>14}" for cell in _cells(row)))
    print(
        f"the roles' own products alone: {found['seconds_of_products']:.2f} of "
        f"{found['seconds']:.2f} seconds, {found['of_products']:.0%}"
    )
    print(f"written: {arguments.out}")
    return 0


def _cells(row: dict[str, float]) -> list[str]:
    cells = [f"{row['flops'] / GIGA:.1f}"]
    if "seconds" in row:
        cells += [f"{row['seconds']:.2f}", f"{row['rate'] / GIGA:.1f}"]
        cells += [f"{row['products'] / GIGA:.1f}"]
        cells += [f"{row[share]:.0%}" for share in ("of_products", "of_large_product")]
    return cells


def _parse(argv: list[str]) -> argparse.Namespace:
    return command.parser(__doc__, "limit.json").parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
