"""Bare Ray actors of any class: nothing is reserved for them and nobody follows them. What measures
the loop without a model is made of these.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster import connection
from rl_unlearn.config import Config


@contextmanager
def actors(config: Config, wanted: Sequence[tuple[type, tuple[Any, ...]]]) -> Iterator[list[Any]]:
    """Handles of actors of these classes, made with these arguments; they end with the block."""
    import ray

    with connection.ray_cluster(config):
        made = [ray.remote(num_cpus=0)(kind).remote(*arguments) for kind, arguments in wanted]
        try:
            yield made
        finally:
            for actor in made:
                ray.kill(actor)
