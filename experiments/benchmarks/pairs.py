"""Pairs of costs that were measured in turn, and what their ratios come to.

What else a machine does changes from minute to minute: two figures compare where they were measured
one after the other, so that each pair has its ratio, and the median of these is the outcome.
"""

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.benchmarks.cost import Cost

Pair = Mapping[str, Mapping[str, Cost]]
"""By part and contestant."""
RATES: dict[str, Callable[[Cost], float]] = {
    "images_per_cpu_second": operator.attrgetter("per_cpu_second"),
    "images_per_second": operator.attrgetter("per_second"),
}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the smallest and the largest."""
    return {
        "median": statistics.median(values),
        "smallest": min(values),
        "largest": max(values),
    }


def rates(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Returns what each contestant came to in each part, by contestant and kind of rate."""
    return {
        part: {
            name: {
                kind: summary([rate(pair[part][name]) for pair in pairs])
                for kind, rate in RATES.items()
            }
            for name in contestants
        }
        for part, contestants in pairs[0].items()
    }


def ratios(pairs: Sequence[Pair], part: str, ours: str, other: str) -> dict[str, Any]:
    """Returns how many times as fast as the other one we were in the same pair, by kind of rate."""
    return {
        "part": part, "ours": ours, "other": other,
        **{
            kind: summary([rate(pair[part][ours]) / rate(pair[part][other]) for pair in pairs])
            for kind, rate in RATES.items()
        },
    }  # fmt: skip


def fastest(pairs: Sequence[Pair], part: str, names: Sequence[str], kind: str) -> str:
    """Returns the contestant of these with the largest median rate of a kind."""
    rate = RATES[kind]
    return max(names, key=lambda name: statistics.median(rate(p[part][name]) for p in pairs))


def rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Returns all pairs as JSON has them."""
    return [
        {
            part: {name: cost.row() for name, cost in contestants.items()}
            for part, contestants in pair.items()
        }
        for pair in pairs
    ]


def shown(ratio: Mapping[str, Any]) -> str:
    """Returns a line about one ratio for people."""
    text = f"{ratio['part']}: {ratio['ours']} / {ratio['other']}"
    for kind in RATES:
        values = ratio[kind]
        text += (
            f"\n    {kind.replace('_', ' '):<22} {values['median']:.2f} times "
            f"({values['smallest']:.2f} to {values['largest']:.2f})"
        )
    return text
