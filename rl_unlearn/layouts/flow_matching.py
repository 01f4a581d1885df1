"""Samplers of models that were trained by flow matching: which ones the posterior kernel can stand
in for.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rl_unlearn.config import Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.layouts.layout import REMEDY, Parts

_KIND = "FlowMatchEulerDiscreteScheduler"
SOLVER = "DPMSolverMultistepScheduler"
"""It knows flows, too, if its configuration says so."""


def notes(parts: Parts, sampler: Sampler | None) -> Iterator[str]:
    """Says what a person should know of the scheduler_config.json; raises DataError or ConfigError
    for what cannot be sampled.
    """
    config = parts["scheduler"]
    kind = config.get("_class_name")
    if kind != _KIND and not _solves(config):
        raise DataError(
            f"the model's sampler is {kind}: only {_KIND} can be sampled with log-probs"
        )
    if config.get("stochastic_sampling") or config.get("invert_sigmas"):
        raise DataError(
            "scheduler_config.json: stochastic_sampling and invert_sigmas must be false"
        )
    trained = config.get("num_train_timesteps", 1000)
    if not isinstance(trained, int) or isinstance(trained, bool) or trained < 2:
        raise DataError(f"scheduler_config.json: num_train_timesteps is {trained!r}: {REMEDY}")
    if config.get("use_dynamic_shifting") and kind == _KIND:
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        if not low < high:
            raise DataError(
                f"scheduler_config.json: base_image_seq_len {low!r} is not below {high!r}: {REMEDY}"
            )
    if sampler is not None and sampler.steps >= trained:
        raise ConfigError(
            f"sampler.steps={sampler.steps} must be below the {trained} steps that the model was "
            "made in"
        )
    if kind == SOLVER and sampler is not None:
        eta = f"eta {sampler.eta:g}, {sampler.steps} steps"
        yield (
            f"the model's own sampler, {kind}, is replaced by a flow's steps of the same shift, "
            f"{eta}"
        )


def _solves(config: Mapping[str, Any]) -> bool:
    """Tells whether a scheduler solves a flow of one shift for all sizes."""
    flows = config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    return (
        config.get("_class_name") == SOLVER
        and bool(flows)
        and not config.get("use_dynamic_shifting")
    )
