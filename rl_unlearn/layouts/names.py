"""Sets of names of weights, put together."""

from typing import Any

Names = set[str]


def few(count: Any) -> int:
    """Returns a number of layers as networks have it; ValueError for another one, before it is
    counted to.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= 1000:
        raise ValueError(f"{count!r} layers")
    return count


def both(*layers: str) -> Names:
    """Weight and bias of each layer."""
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def under(place: str, names: Names) -> Names:
    """Returns the names as those of a part."""
    return {f"{place}.{name}" for name in names}
