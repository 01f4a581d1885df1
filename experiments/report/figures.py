"""Numbers of any origin, as far as they can be drawn."""

import math
from typing import Any

from rl_unlearn.evaluation.record import LARGEST


def drawable(value: Any) -> float | None:
    """Returns the number, None for anything that is none, not finite, or too large to be put on an
    axis.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not -LARGEST <= value <= LARGEST or not math.isfinite(value):
        return None
    return float(value)


def mean(value: Any) -> float | None:
    """Returns the same of a list, which counts with the mean of its numbers."""
    if not isinstance(value, list):
        return drawable(value)
    numbers = [number for number in map(drawable, value) if number is not None]
    return sum(numbers) / len(numbers) if numbers else None


def points(rows: list[dict[str, Any]], event: str, x: str, key: str) -> list[tuple[float, float]]:
    """Returns what one event says about `key`, over `x`; a list counts with its mean."""
    places = []
    for row in rows:
        place, value = drawable(row.get(x)), mean(row.get(key))
        if row.get("event") == event and place is not None and value is not None:
            places.append((place, value))
    return places
