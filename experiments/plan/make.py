"""A plan as one object: what `train --plan --json` prints, and what the page shows."""

from typing import Any

from experiments.doctor import preflight
from experiments.plan import costs, hollow, images, machine, memory, speeds, stores
from rl_unlearn.config import Config
from rl_unlearn.prompts import PromptBook

TERA = 1e12


def make(
    config: Config, evaluated: bool, tflops: float | None = None, mfu: float = speeds.MFU
) -> dict[str, Any]:
    """Returns the plan of one run. Makes no folder, reads no weights.

    Raises ConfigError for settings that exclude each other, DataError for a model that cannot be
    trained.
    """
    preflight.loop(config)
    book = PromptBook.from_config(config)
    here = machine.computer(config)
    model = hollow.build(config, here.device)
    run_costs = costs.of(config, book, model)
    wanted = images.count(config, book, evaluated)
    work = costs.phases(run_costs, wanted, stores.kept(config, book))
    needs = memory.roles(config, book, model, run_costs)
    groups = machine.groups(config)
    cards = memory.cards(groups, needs, config.cluster.inline)
    peak = tflops or (speeds.peak(here.card) if here.card else None)
    return {
        "run": config.run_name,
        "places": [
            {
                "role": role,
                "actors": len(places),
                "resources": places[0].resources,
                "labels": places[0].labels,
            }
            for role, places in groups.items()
        ],
        "inline": config.cluster.inline,
        "warnings": _warnings(config, evaluated, run_costs),
        "memory": {
            "device": here.device,
            "of": here.memory,
            "whose": here.note,
            "roles": {
                role: {"lasting": need.lasting, "moments": need.moments, "total": need.total}
                for role, need in needs.items()
            },
            "cards": [
                {
                    "roles": held,
                    "bytes": memory.together([needs[role] for role in held], config.cluster.inline),
                }
                for held in cards
            ],
            "host": stores.memory(config, book, model, run_costs),
        },
        "flops": {
            "guided forward of one image": run_costs.guided,
            "one image": run_costs.image,
            "learner update of one image": run_costs.update,
            "one step of the critic": run_costs.fit,
        },
        "images": wanted | {"all": sum(wanted.values())},
        "work": work | {"all": sum(work.values())},
        "tflops": peak,
        "mfu": mfu,
        "hours": _hours(work, cards, config, peak, mfu) if peak else None,
        "disk": stores.disk(config, book, model, run_costs, wanted),
    }


def _hours(
    work: dict[str, int], cards: list[list[str]], config: Config, tflops: float, mfu: float
) -> dict[str, float]:
    """Returns the hours of the phases one after another; rollouts and learner are spread over the
    cards that they have.
    """
    calls = -(-config.rollout.images // config.rollout.batch)
    spread = {"rollouts": min(calls, sum("rollout" in held for held in cards))}
    spread["learner"] = sum("learner" in held for held in cards)
    hours = {
        phase: flops / (spread.get(phase, 1) * tflops * TERA * mfu) / 3600
        for phase, flops in work.items()
    }
    return hours | {"all": sum(hours.values())}


def _warnings(config: Config, evaluated: bool, run_costs: costs.Costs) -> list[str]:
    warnings = machine.missing(config)
    for name, notes, error in preflight.results(config):
        if evaluated or name != preflight.JUDGE:
            warnings += [*notes, *([str(error)] if error else [])]
    unknown = [
        n
        for n, eye in (("reward", run_costs.reward), ("selection", run_costs.selection))
        if eye is None
    ]
    warnings += [
        f"{name}.clip is of a kind that only loading can measure: left out" for name in unknown
    ]
    if config.learner.checkpointing == "auto":
        warnings.append(
            "learner.checkpointing=auto: counted without it; where that does not fit, a run turns "
            "it on (learner.checkpointing=on shows what it then takes)"
        )
    if config.loop.mode == "async":
        warnings.append(
            "loop.mode=async: timing decides how many images are drawn; these are about right"
        )
    return warnings
