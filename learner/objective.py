"""The configured estimator: what each denoising step of a scored batch is worth, and the loss that
follows from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.config import Config
from rl_unlearn.estimators import (
    PromptStatistics,
    centred,
    gae,
    group_advantages,
    scale,
    standardised,
    vtrace,
)
from rl_unlearn.losses import (
    control_variate,
    importance_weight,
    likelihood_ratio_loss,
    pathwise_loss,
)
from rl_unlearn.trajectory import Scored


@dataclass(frozen=True)
class Advantages:
    """Values of the steps, gradients at their actions, or both, in the same units."""

    values: Float[Tensor, "*batch"] | None
    gradients: Float[Tensor, "*batch channels height width"] | None

    def at(
        self, rows: Int[Tensor, " pairs"], steps: Int[Tensor, " pairs"], device: torch.device
    ) -> "Advantages":
        """Those of some (trajectory, step) pairs."""
        values = None if self.values is None else self.values[rows, steps].to(device)
        return Advantages(
            values, None if self.gradients is None else self.gradients[rows, steps].to(device)
        )


class Estimator:
    """One of config.Estimator's, with what it remembers of former batches."""

    def __init__(self, config: Config, dimensions: int):
        """``dimensions``: D, the number of latent dimensions."""
        self._config, self._clip = config.estimator, config.learner.clip_range
        exponent = config.estimator.ratio_exponent
        self.exponent = 1 / dimensions if exponent is None else exponent
        """Of the joint ratio, where it weighs a step."""
        self._statistics = PromptStatistics()

    def advantages(
        self,
        scored: Scored,
        target: Bool[Tensor, " batch"],
        log_ratios: Callable[[], Float[Tensor, "batch steps"]],
    ) -> Advantages:
        """Of all steps of a batch.

        ``target``: whose prompt asks for the concept. ``log_ratios`` computes the present policy's
        joint ones, for who needs them.
        """
        trajectory, name = scored.trajectory, self._config.name
        rewards, steps = trajectory.rewards, trajectory.log_probs.shape[1]
        if name == "terminal":
            found = self._statistics.advantages(trajectory.ids, trajectory.prompts, target, rewards)
            return Advantages(found[:, None].expand(-1, steps), None)
        if name == "group":
            groups = torch.stack([trajectory.prompts, trajectory.rounds], dim=1)
            return Advantages(group_advantages(groups, rewards)[:, None].expand(-1, steps), None)
        if self._config.gradients == "actions":
            return Advantages(None, scored.action_gradients)
        assert scored.values is not None
        if name == "vtrace":
            ratios = (self.exponent * log_ratios()).exp()
            found = vtrace(scored.values, rewards, ratios, self._config.truncation)
        else:
            found = gae(scored.values, rewards, self._config.gae_lambda)
        found, gradients = centred(found, target), scored.action_gradients
        return Advantages(
            standardised(found), None if gradients is None else gradients / scale(found)
        )

    def loss(
        self,
        worth: Advantages,
        log_probs: Float[Tensor, " pairs"],
        log_ratio: Float[Tensor, " pairs"],
        mean: Float[Tensor, "pairs channels height width"],
        away: Float[Tensor, "pairs channels height width"] | None,
    ) -> Float[Tensor, " pairs"]:
        """Of (trajectory, step) pairs, from the present policy's joint log-probs, log-ratios and
        means.

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
        nu = self._config.nu
        residual = worth.values - nu * control_variate(away, worth.gradients)
        return nu * pathwise_loss(mean, worth.gradients) + likelihood_ratio_loss(
            log_probs, log_ratio, residual, self.exponent, self._clip
        )

    def state(self) -> dict[str, Any]:
        """What :meth:`load` takes; plain values."""
        return self._statistics.state()

    def load(self, state: dict[str, Any]) -> None:
        """Remembers what another one did."""
        self._statistics.load(state)
