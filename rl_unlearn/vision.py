"""open_clip and timm without what they bring along: every module of this project takes them from here.

timm imports Weights & Biases, for a function that nobody here calls, and that makes two temporary folders, which a
process that is killed leaves behind, as Ray's workers are.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(name: str) -> Iterator[None]:
    """While this lasts a module that is not imported yet cannot be; who imports it as an extra does without."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[name]


with _without("wandb"):
    import timm

import open_clip  # noqa: E402

__all__ = ["open_clip", "timm"]
