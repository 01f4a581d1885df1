"""The fit of the critic: regression of outcomes on noisy latents, with prompts withheld."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_unlearn.config import Config
from rl_unlearn.critic import Critic, Timesteps
from rl_unlearn.errors import NonFiniteError
from rl_unlearn.kernel import Kernel
from rl_unlearn.noise import generator
from rl_unlearn.states import States


class CriticFit:
    """Holds the critic's optimizer, and remembers its last call."""

    def __init__(
        self,
        config: Config,
        critic: Critic,
        kernel: Kernel,
        levels: Timesteps,
        conditions: Float[Tensor, "prompts features"],
    ):
        """``levels``: the timesteps that the critic is told; ``conditions``: one for each prompt,
        on the critic's device.
        """
        self._critic, self._kernel = critic, kernel
        self._levels, self._conditions = levels, conditions
        self._seed, self._withheld = config.seed, config.critic.withheld
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), lr=config.critic.lr, weight_decay=0.01
        )
        self._number: int | None = None
        self._last: dict[str, float] = {}

    def run(
        self, minibatches: Callable[[torch.Generator], Iterator[States]], number: int
    ) -> dict[str, float]:
        """Takes a step on each minibatch; returns the last squared error, nothing without steps.

        ``number`` names the random draws and the call: delivered twice, it only answers twice.
        Raises NonFiniteError if no step had a finite gradient.
        """
        if number == self._number:
            return self._last
        draw = generator(self._seed, "critic", number)
        loss, steps, skipped = torch.zeros(()), 0, 0
        for states in minibatches(draw):
            steps += 1
            loss = self._loss(states, draw)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if nn.utils.clip_grad_norm_(self._critic.parameters(), 1.0).isfinite():
                self.optimizer.step()
            else:
                skipped += 1
        if steps and skipped == steps:
            raise NonFiniteError(
                f"no gradient of the critic was finite in {steps} steps: lower critic.lr"
            )
        self._number, self._last = number, {"critic_loss": loss.item()} if steps else {}
        return self._last

    def _loss(self, states: States, draw: torch.Generator) -> Float[Tensor, ""]:
        """Returns the mean squared error over some states; their noise is drawn on the critic's
        device, where a large latent would keep a host busy for longer than the step.
        """
        device = self._conditions.device
        noise = torch.randn(states.latents.shape, generator=self._on_device(draw), device=device)
        shown = torch.rand(len(states), 1, generator=draw) >= self._withheld
        condition = self._conditions[states.prompts] * shown.to(device)
        latents = self.noisy(states, noise)
        predicted = self._critic(latents, self._levels[states.levels], condition)
        loss: Tensor = (predicted - states.outcomes.to(device)).square().mean()
        return loss

    def _on_device(self, draw: torch.Generator) -> torch.Generator:
        """Returns a generator of the critic's device, named by the next number of this one."""
        device = self._conditions.device
        if draw.device.type == device.type:
            return draw
        named = int(torch.randint(2**62, (), generator=draw))
        return torch.Generator(device).manual_seed(named)

    def noisy(
        self, states: States, noise: Float[Tensor, "count channels height width"]
    ) -> Float[Tensor, "count channels height width"]:
        """Returns the latents in fp32, the final ones among them under this noise, on its
        device.
        """
        latents = states.latents.to(noise.device).float()
        fresh = self._kernel.renoised(latents, noise, states.levels)
        final = states.final[:, None, None, None].to(noise.device)
        return torch.where(final, fresh, latents)
