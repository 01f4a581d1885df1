"""The step size of the adapter, which follows how far single updates move the policy."""

from rl_unlearn.config import Config
from rl_unlearn.controllers import annealed, next_lr


class StepSize:
    """Holds the step size between its bounds, of which the upper one falls towards the end."""

    def __init__(self, config: Config):
        self._learner = config.learner
        self._updates = config.loop.rounds * config.learner.updates_per_round
        self.value = config.learner.lr

    def follow(self, step_kl: float | None, version: int) -> None:
        """Moves the step size so that the next update moves the policy by ``learner.step_kl``.

        ``step_kl``: how far the last one did, in nats; None, where it cannot be told, is taken for
        neither too far nor too little. ``version``: updates made.
        """
        learner, lowest = self._learner, self._learner.lr * self._learner.lr_floor
        progress = min(1.0, version / self._updates)
        highest = learner.lr * annealed(progress, learner.lr_constant, learner.lr_floor)
        moved = learner.step_kl if step_kl is None else step_kl
        self.value = next_lr(self.value, moved, learner.step_kl, lowest, highest)
