"""open_clip and timm without what they bring along; every module here takes them from this one.

timm imports Weights & Biases, for a function that nobody here calls. That makes two temporary
folders, which a process that is killed, as Ray's workers are, leaves behind.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Makes a module that is not imported yet fail to import meanwhile; others do without it."""
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
