"""The floor of rounding: the KL that any change of the adapter shows in half precision.

Unchanged weights give the same bits, so before the first update every ratio is exactly 1. Any
change, however small, draws the rounding of the whole network anew; the mean of an action then
differs by noise, which the kernel divides by its std. That KL grows with the number of latent
dimensions and with the square of the guidance, is the same for one update as for a hundred, and
says nothing of the policy: whoever steers by a KL takes it off first.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.ranks import Ranks
from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.condition import Condition
from rl_unlearn.noise import generator
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.trajectory import Trajectory

STATES = 256
"""States that are looked at, at most, evenly over the learned steps. They differ by a third of
their mean: that of all steps is known to 2 % and, of 30 steps, that of each one to 12 %."""
NUDGE = 3e-3
"""Size of the change, against the mean size of the layer's own lora_A. From 1e-3 on the rounding is
drawn anew as a whole (at 1e-5 the nudge itself is rounded away), and up to 1e-2 the nudge moves the
policy by far less than the rounding does."""
MARGIN = 3
"""A budget holds so many floors at least: a KL of that size is a difference of two, as noisy as
they are."""


class Floor:
    """Holds K0 of each denoising step in nats: 0 until it is measured, and always in fp32."""

    def __init__(self, config: Config, policy: DiffusionPolicy, conditions: Condition):
        self._config, self._policy, self._conditions = config, policy, conditions
        self._of_step = torch.zeros(len(policy.kernel))

    def measure(self, states: Trajectory, ranks: Ranks) -> None:
        """Looks at some states of these trajectories; each rank at its share."""
        if self._config.model.dtype == "fp32":
            return
        learned, seed = self._policy.kernel.learned, self._config.seed
        count = min(len(states), max(1, STATES // len(learned)))
        chosen = torch.randperm(len(states), generator=generator(seed, "floor"))[:count]
        pairs = torch.cartesian_prod(chosen, learned)
        rows, steps = pairs[ranks.share(len(pairs))].unbind(dim=1)
        kl = drawn_anew(
            self._policy,
            self._conditions,
            states.latents[rows, steps],
            steps,
            states.prompts[rows],
            at_once=self._config.learner.microbatch,
            seed=seed,
        )
        total = torch.zeros(len(self._of_step), dtype=torch.float64).index_add_(
            0, steps, kl.double()
        )
        ranks.sum(total)
        self._of_step = (total / count).float()

    def at(self, steps: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Returns K0 of some steps, on the CPU."""
        return self._of_step[steps]

    @property
    def mean(self) -> float:
        """K0, over the learned steps."""
        return self._of_step[self._policy.kernel.learned].mean().item()

    def check(self, retains: bool) -> None:
        """Raises ConfigError where rounding uses up more than a third of what the policy may move.

        ``retains``: whether there are states for the retention budget to hold.
        """
        learner, estimator, needed = (
            self._config.learner,
            self._config.estimator,
            MARGIN * self.mean,
        )
        # A clip of c nats is where the log-ratios of a movement of c^2 / 2 nats have their std.
        weighs = estimator.row.gradients != "actions" or bool(estimator.ratio_exponent)
        limits = {
            "learner.kl_budget": (learner.kl_budget, needed, retains and learner.kl_rate > 0),
            "learner.step_kl": (learner.step_kl, needed, learner.lr_floor < 1),
            "learner.clip_range": (learner.clip_range, math.sqrt(2 * needed), weighs),
        }
        low = {
            key: (limit, least)
            for key, (limit, least, used) in limits.items()
            if used and not limit >= least
        }
        if not low:
            return
        model, guidance = self._config.model, self._config.sampler.guidance
        remedies = ["model.dtype=fp16 or fp32" if model.dtype == "bf16" else "model.dtype=fp32"]
        remedies += [f"a sampler.guidance below {guidance:g}"] if guidance > 1 else []
        remedies += [" ".join(f"{key}={_rounded_up(least):g}" for key, (_, least) in low.items())]
        settings = " and ".join(f"{key}={limit:.3g}" for key, (limit, _) in low.items())
        rough = f"in {model.dtype} rounding alone moves a step by {self.mean:.2g} nats"
        raise ConfigError(
            f"{settings} cannot be held: {rough}, and budgets must be three times that: use "
            f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
        )

    def state(self) -> list[float]:
        """Returns what :meth:`load` takes."""
        return self._of_step.tolist()

    def load(self, state: list[float]) -> None:
        """Takes over what was measured before."""
        self._of_step = torch.tensor(state)


@torch.no_grad()
def drawn_anew(
    policy: DiffusionPolicy,
    conditions: Condition,
    latents: Float[Tensor, "rows channels height width"],
    steps: Int[Tensor, " rows"],
    prompts: Int[Tensor, " rows"],
    *,
    at_once: int,
    seed: int,
) -> Float[Tensor, " rows"]:
    """KL of the policy at some states to one just beside it, whose rounding is another.

    The adapter is left as it was, bit for bit.
    """
    parts = [part for part in torch.arange(len(steps)).split(at_once) if len(part)]

    def means() -> list[Tensor]:
        values = []
        for part in parts:
            state = latents[part].to(policy.device)
            output = policy.predict(state, steps[part], conditions[prompts[part]])
            values.append(policy.kernel.mean(output, state, steps[part]))
        return values

    adapter, before = policy.adapter_state(), means()
    policy.load_adapter(_nudged(adapter, seed))
    try:
        after = means()
    finally:
        policy.load_adapter(adapter)
    kl = [
        policy.kernel.kl(a, b, steps[part]).cpu()
        for a, b, part in zip(after, before, parts, strict=True)
    ]
    return torch.cat([torch.empty(0), *kl])


def _nudged(adapter: AdapterState, seed: int) -> AdapterState:
    """Returns the adapter with noise by name on the weights that a fresh one has at 0."""
    nudged = dict(adapter)
    for name in (name for name in adapter if ".lora_B." in name):
        size = NUDGE * adapter[name.replace(".lora_B.", ".lora_A.")].abs().mean()
        nudged[name] = adapter[name] + size * torch.randn(
            adapter[name].shape, generator=generator(seed, "floor", name)
        )
    return nudged


def _rounded_up(number: float) -> float:
    """Rounds a number up to two digits."""
    if not math.isfinite(number):
        return number
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit
