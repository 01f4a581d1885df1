"""The optimizer of the adapter: AdamW behind a scaler, gradients summed over all ranks, and steps
that are not finite left out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from learner.ranks import Ranks
from learner.step_size import StepSize
from rl_unlearn.config import Config
from rl_unlearn.errors import NonFiniteError
from rl_unlearn.messages import load_optimizer, optimizer_tensors
from rl_unlearn.policy import DiffusionPolicy

MAX_SKIPPED = 5


class AdapterOptimizer:
    """Holds the trained parameters (the adapter's fp32 masters), AdamW's moments, step size and
    scaler, and how many steps in a row were skipped.
    """

    def __init__(self, config: Config, policy: DiffusionPolicy, ranks: Ranks):
        self.parameters = policy.parameters()
        self._policy = policy
        self._ranks, self._max_grad_norm = ranks, config.learner.max_grad_norm
        self.adamw: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learner.lr,
            # The gradient grows tenfold within a few updates once the policy starts to move; a long
            # memory of its former size would make those steps several times too large.
            betas=(0.9, 0.95),
            weight_decay=config.learner.weight_decay,
        )
        # Only fp16 gradients underflow; the scaler is the identity otherwise.
        self.scaler = torch.amp.GradScaler(
            policy.device.type, init_scale=2.0**10, enabled=config.model.dtype == "fp16"
        )
        self._step_size = StepSize(config)
        self._skipped = 0

    @property
    def lr(self) -> float:
        """The step size."""
        return self._step_size.value

    def steer(self, step_kl: float | None, version: int) -> None:
        """Lets the step size follow how far the last update moved the policy (StepSize)."""
        self._step_size.follow(step_kl, version)
        self._set_lr()

    def _set_lr(self) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = self.lr

    def clear(self) -> None:
        """Forgets the gradients of the last step."""
        self.adamw.zero_grad(set_to_none=True)

    def sum_gradients(self) -> list[Tensor]:
        """Returns the gradients, added up over all ranks; where a rank's share was empty its part
        is zero.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self._ranks.sum(*gradients)
        return gradients

    def step(self) -> tuple[float, bool]:
        """Takes a step along the gradients; returns their norm and whether it was finite.

        One that is not is skipped. Raises NonFiniteError after several of these in a row.
        """
        self.sum_gradients()
        self.scaler.unscale_(self.adamw)
        norm = nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)
        finite = bool(torch.isfinite(norm))
        # The scaler skips by itself, and must see what is not finite to lower its scale.
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.adamw)
            self.scaler.update()
            self._policy.renew_adapter()
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= MAX_SKIPPED:
            raise NonFiniteError(
                f"the gradient was not finite in {MAX_SKIPPED} optimizer steps in a row: lower "
                "learner.lr or check the reward"
            )
        return norm.item(), finite

    def tensors(self) -> dict[str, Tensor]:
        """Returns the moments by name, as :meth:`load` takes them."""
        return optimizer_tensors(self.adamw)

    def values(self) -> dict[str, Any]:
        """Returns the plain values that :meth:`load` takes beside them."""
        return {"lr": self.lr, "skipped": self._skipped, "scaler": self.scaler.state_dict()}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes on where another one's :meth:`tensors` and :meth:`values` were taken."""
        load_optimizer(self.adamw, tensors)
        self._step_size.value = values["lr"]
        self._set_lr()
        self._skipped = values["skipped"]
        self.scaler.load_state_dict(values["scaler"])
