"""What a user can do when a GPU's memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rl_unlearn.errors import MachineError


@contextmanager
def enough_for(who: str, remedy: str) -> Iterator[None]:
    """Raises MachineError with the settings that help, in place of torch's, which names none."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise MachineError(f"{who} has not enough GPU memory ({reason}): {remedy}") from error


ROLLOUT = "lower rollout.batch or model.size, or use model.dtype=fp16"
LEARNER = (
    "use learner.checkpointing=on, lower learner.microbatch, model.size or lora.rank, or use "
    "model.dtype=fp16"
)
CRITIC = "lower critic.minibatch, critic.grid or rollout.batch"
IMAGES = "lower evaluation.batch or model.size, or use model.dtype=fp16"
