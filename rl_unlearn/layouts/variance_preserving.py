"""Samplers of models that were trained with variance-preserving noise: which ones DDIM can stand in
for.
"""

from collections.abc import Iterator

from rl_unlearn.config import Sampler
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.layouts.layout import REMEDY, Parts

_SAME_NOISE = {
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
}  # fmt: skip
_FEW_STEPS = {"LCMScheduler", "TCDScheduler"}


def notes(parts: Parts, sampler: Sampler | None) -> Iterator[str]:
    """Says what a person should know of the scheduler_config.json; raises DataError or ConfigError
    for what cannot be sampled.
    """
    config = parts["scheduler"]
    kind, spacing = config.get("_class_name"), config.get("timestep_spacing", "leading")
    if kind not in _SAME_NOISE or config.get("use_flow_sigmas"):
        raise DataError(
            f"the model's sampler is {kind}: its noise is not the one that DDIM takes away"
        )
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in ("epsilon", "v_prediction", "sample"):
        raise DataError(
            f"the model's prediction_type is {predicts!r}: use epsilon, v_prediction or sample"
        )
    if predicts == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise DataError(
            "the model predicts the noise (epsilon), but its first step has nothing else "
            "(rescale_betas_zero_snr): set that to false in scheduler_config.json"
        )
    trained = config.get("num_train_timesteps", 1000)
    if not isinstance(trained, int) or trained < 2:
        raise DataError(f"scheduler_config.json: num_train_timesteps is {trained!r}: {REMEDY}")
    if spacing not in ("leading", "linspace", "trailing"):
        raise DataError(
            f"scheduler_config.json: timestep_spacing is {spacing!r}: use leading, linspace or "
            "trailing"
        )
    if sampler is None:
        return
    if sampler.steps >= trained:
        raise ConfigError(
            f"sampler.steps={sampler.steps} must be below the {trained} steps that the model was "
            "made in"
        )
    eta = f"DDIM, eta {sampler.eta:g}, {sampler.steps} steps"
    if kind in _FEW_STEPS or (kind.startswith("Euler") and spacing == "trailing"):
        yield (
            f"the model is made for few steps of {kind}; it is drawn and trained by {eta} instead: "
            "look at its images"
        )
    elif kind not in ("DDIMScheduler", "PNDMScheduler"):
        yield f"the model's own sampler, {kind}, is replaced by {eta}"
