"""The objective: what each denoising step of a scored batch is worth by the configured estimator,
and the loss that follows from it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from rl_unlearn import advantages
from rl_unlearn.advantages import Advantages, Batch, PromptStatistics, Worth
from rl_unlearn.config import Config
from rl_unlearn.losses import (
    control_variate,
    importance_weight,
    likelihood_ratio_loss,
    pathwise_loss,
)
from rl_unlearn.trajectory import Scored


def _function(name: str) -> Callable[[Batch], Advantages]:
    module, _, function = name.rpartition(":")
    found: Callable[[Batch], Advantages] = getattr(
        import_module(module) if module else advantages, function
    )
    return found


class Objective:
    """The configured estimator, with what it remembers of former batches."""

    def __init__(self, config: Config, dimensions: int):
        """``dimensions``: D, the number of latent dimensions."""
        self._settings, self._clip = config.estimator, config.learner.clip_range
        exponent = config.estimator.ratio_exponent
        self.exponent = 1 / dimensions if exponent is None else exponent
        """Exponent of the joint ratio, where it weighs a step."""
        self._statistics = PromptStatistics()

    def advantages(
        self,
        scored: Scored,
        target: Bool[Tensor, " batch"],
        log_ratios: Callable[[], Float[Tensor, "batch steps"]],
    ) -> Advantages:
        """Returns the advantages of all steps of a batch.

        ``target``: whose prompt asks for the concept. ``log_ratios`` computes the present policy's
        joint ones, for who needs them.
        """
        row = self._settings.row
        ratios = (self.exponent * log_ratios()).exp() if row.reweighs else None
        batch = Batch(scored, target, ratios, self._statistics, self._settings)
        worth: Advantages = _function(row.advantages)(batch)
        return worth

    def loss(
        self,
        worth: Worth,
        log_probs: Float[Tensor, " pairs"],
        log_ratio: Float[Tensor, " pairs"],
        mean: Float[Tensor, "pairs channels height width"],
        away: Float[Tensor, "pairs channels height width"] | None,
    ) -> Float[Tensor, " pairs"]:
        """Returns the loss of each (trajectory, step), from the present policy's joint log-probs,
        log-ratios and means.

        ``away``: stored action less behaviour mean, where action gradients serve as control variate
        (``qprop``).
        """
        if worth.values is None:
            assert worth.gradients is not None
            return pathwise_loss(
                mean, worth.gradients, importance_weight(log_ratio, self.exponent, self._clip)
            )
        if worth.gradients is None:
            return likelihood_ratio_loss(
                log_probs, log_ratio, worth.values, self.exponent, self._clip
            )
        assert away is not None
        nu = self._settings.nu
        residual = worth.values - nu * control_variate(away, worth.gradients)
        return nu * pathwise_loss(mean, worth.gradients) + likelihood_ratio_loss(
            log_probs, log_ratio, residual, self.exponent, self._clip
        )

    def state(self) -> dict[str, Any]:
        """Returns what :meth:`load` takes, as plain values."""
        return self._statistics.state()

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what another objective remembers."""
        self._statistics.load(state)
