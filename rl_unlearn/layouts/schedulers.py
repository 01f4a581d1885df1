"""Schedulers of diffusers by the names that programs which draw give them, and what each kind of
model has of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rl_unlearn.config import Config


@dataclass(frozen=True)
class Scheduler:
    """A class of diffusers, and what it is made with beside the model's own configuration."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """How an evaluation draws where training's own kernel does not."""

    name: str
    """As `evaluation.scheduler` has it."""
    steps: int

    @staticmethod
    def of(config: Config) -> "Schedule | None":
        """Returns the one of a configuration, None for the kernel that training samples with."""
        name = config.evaluation.scheduler
        if name is None:
            return None
        return Schedule(name, config.evaluation.steps or config.sampler.steps)


def _dpm(karras: bool) -> Scheduler:
    """DPM++ 2M, which others call DPM-Solver++ of the second order."""
    return Scheduler(
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": karras},
    )


VARIANCE_PRESERVING = {
    "ddim": Scheduler("DDIMScheduler"),
    "dpm++": _dpm(karras=False),
    "dpm++-karras": _dpm(karras=True),
    "euler": Scheduler("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler-a": Scheduler("EulerAncestralDiscreteScheduler"),
    "unipc": Scheduler("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
}
"""Of models that were trained with variance-preserving noise."""
FLOW_MATCHING = {
    "dpm++": Scheduler(
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    "euler": Scheduler("FlowMatchEulerDiscreteScheduler"),
}
"""Of models that were trained by flow matching."""
