"""Places the image actors of an evaluation: in this process, or 1 to N of them on Ray, which
share the work.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from actors.images import ImageActor, Images, ModelVariant
from cluster import connection
from rl_unlearn.config import Config
from rl_unlearn.errors import MachineError, TrainingError

Batch = tuple[tuple[str, ...], tuple[int, ...]]
"""Texts and noise seeds."""
Keep = Callable[[int, Images], None]
"""Takes batch number and images as soon as they are there, in any order, on the driver."""

_RESTARTS = 10


class ImageSource(Protocol):
    """Source of images: whatever draws batches."""

    def model_digest(self) -> str:
        """Returns the checksum of the untouched pipeline."""

    def draw(self, variant: ModelVariant, batches: dict[int, Batch], keep: Keep) -> None:
        """Draws all batches, numbered by the caller."""


@contextmanager
def image_source(config: Config) -> Iterator[ImageSource]:
    """Opens what `evaluation.actors` and `cluster.inline` ask for.

    Raises UserError with one line that names the cause.
    """
    if config.cluster.inline or config.evaluation.actors == 0:
        yield _Inline(config)
        return
    with connection.ray_cluster(config):
        yield _Shared(config)


class _Inline:
    def __init__(self, config: Config):
        self._actor = ImageActor(config)

    def model_digest(self) -> str:
        return self._actor.model_digest()

    def draw(self, variant: ModelVariant, batches: dict[int, Batch], keep: Keep) -> None:
        for number, (texts, seeds) in batches.items():
            keep(number, self._actor.draw(variant, texts, seeds))


class _Shared:
    """Image actors on Ray: each has one batch in hand and gets the next when it is done."""

    def __init__(self, config: Config):
        import ray

        self._timeout = config.loop.timeout
        options: dict[str, Any] = {
            "num_cpus": config.cluster.actor_cpus,
            "num_gpus": config.cluster.rollout_gpus,
        }
        if ray.util.get_current_placement_group() is None:  # a trial's group has places in the pool
            options["label_selector"] = config.cluster.rollout_labels
        remote = ray.remote(ImageActor).options(
            max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **options
        )
        threads = config.cluster.threads
        self._actors = [remote.remote(config, threads) for _ in range(config.evaluation.actors)]
        digests = self._get([actor.model_digest.remote() for actor in self._actors])
        if len(set(digests)) != 1:
            raise MachineError(
                f"model.path {config.model.path!r} holds different models on the cluster's machines"
            )
        self._digest = digests[0]

    def model_digest(self) -> str:
        digest: str = self._digest
        return digest

    def draw(self, variant: ModelVariant, batches: dict[int, Batch], keep: Keep) -> None:
        import ray

        shared = ray.put(variant)
        waiting = list(batches.items())
        in_hand: dict[Any, tuple[Any, int]] = {}
        idle = list(self._actors)
        while waiting or in_hand:
            while idle and waiting:
                actor, (number, (texts, seeds)) = idle.pop(), waiting.pop(0)
                in_hand[actor.draw.remote(shared, texts, seeds)] = (actor, number)
            done, _ = ray.wait(list(in_hand), num_returns=1, timeout=self._timeout)
            if not done:
                raise TrainingError(
                    f"no image actor finished a batch in {self._timeout:g} seconds: raise "
                    "loop.timeout"
                )
            for reference in done:
                actor, number = in_hand.pop(reference)
                keep(number, self._get(reference))
                idle.append(actor)

    def _get(self, references: Any) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError

        try:
            return ray.get(references, timeout=self._timeout)
        except GetTimeoutError as error:
            raise MachineError(
                f"the image actors did not answer in {self._timeout:g} seconds (this machine has "
                f"{os.cpu_count()} CPUs): lower evaluation.actors or cluster.actor_cpus, or raise "
                "loop.timeout"
            ) from error
        except Exception as error:
            raise connection.explain(error) from error
