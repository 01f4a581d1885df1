"""Sections on how it is learned: critic, estimator, learner."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from rl_unlearn import plugins
from rl_unlearn.config.section import Section
from rl_unlearn.estimators import KNOWN_AS, NAMES, Estimator, described, find

if TYPE_CHECKING:  # no checker takes a literal that is computed
    EstimatorName = str
else:
    EstimatorName = Literal[NAMES]


def _is_installed(name: str) -> str:
    if name not in plugins.names(plugins.ESTIMATORS):
        raise ValueError("must be one of the table's names or of an installed package's")
    return name


Installed = Annotated[str, AfterValidator(_is_installed)]


class Critic(Section):
    lr: float = Field(1e-3, gt=0, lt=1)
    """AdamW step size."""
    grid: int = Field(4, ge=1, le=64)
    """Latents are cut into grid x grid tokens for the CLIP trunk."""
    layers: int = Field(1, ge=0)
    """Blocks of the reward CLIP's image tower in the trunk, from the first; 0 leaves a
    convolutional critic."""
    minibatch: int = Field(64, ge=1)
    """Noisy latents in a critic step."""
    steps: int = Field(8, ge=0)
    """Critic steps before each update."""
    window: int = Field(192, ge=1)
    """Replay rows, uniformly drawn, that these steps see; the warm-up's are among them until they
    are too old."""
    renoised: float = Field(0.5, ge=0, le=1)
    """Share of the critic's states that are final latents under fresh noise rather than states of
    the trajectory."""
    rehearsal: float = Field(0.5, ge=0, lt=1)
    """Share of a minibatch that comes from the warm-up images."""
    withheld: float = Field(0.8, ge=0, le=1)
    """Share of states whose prompt the critic is not told: it must look at the latents."""
    start: str | None = None
    """Run folder whose critic this one starts from; None: the reward CLIP's blocks and random
    convolutions."""
    warmup_images: int = Field(256, ge=2)
    """Images of the frozen policy made before the first update: they warm the critic up and are the
    retention pool."""
    warmup_target_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the warm-up images drawn for target prompts: what there is besides is most of what
    must be learned."""
    warmup_steps: int = Field(200, ge=0)
    """Critic steps on the warm-up images."""

    @property
    def fresh(self) -> int:
        """States of a minibatch that come from the replay store; the others are the warm-up's."""
        return self.minibatch - round(self.minibatch * self.rehearsal)


class EstimatorConfig(Section):
    name: EstimatorName | Installed = Field("pathwise", description=described())
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """GAE lambda of `critic`, `x0hat` and `qprop`; 1 is reward minus value."""
    truncation: float = Field(1.0, gt=0)
    """Truncation of `vtrace`'s ratios, which are tempered by ratio_exponent, in its value targets;
    the weight of the step itself is truncated by learner.clip_range."""
    nu: float = Field(1.0, ge=0)
    """Share of the control variate in `qprop`; 0 is `critic`."""
    ratio_exponent: float | None = Field(None, ge=0, le=1)
    """Exponent of a step's joint importance ratio where it weighs the step: 1 is exact, null stands
    for 1/D (the D-th root, practically no weight), 0 leaves the weights out."""

    @field_validator("name", mode="before")
    @classmethod
    def _known_as(cls, name: object) -> object:
        return KNOWN_AS.get(name.lower(), name) if isinstance(name, str) else name

    @property
    def row(self) -> Estimator:
        """The estimator of that name."""
        return find(self.name)


class Learner(Section):
    ranks: int = Field(1, ge=1, le=64)
    """Learner actors that share every optimizer step: each computes its part of a minibatch, the
    gradients are summed, the weights stay bit-equal. The sum's rounding depends on it; otherwise an
    update does not."""
    lr: float = Field(3e-3, gt=0, lt=1)
    """Largest AdamW step size of the adapter, and the first one; it follows step_kl."""
    lr_floor: float = Field(0.02, gt=0, le=1)
    """Smallest step size, as a share of lr; 1 keeps the step size fixed."""
    lr_constant: float = Field(0.6, ge=0, le=1)
    """Share of the run after which the largest step size falls linearly to lr_floor; 1 never."""
    step_kl: float = Field(4 / 3, gt=0)
    """How far one update should move the policy: joint KL in nats per denoising step, above what
    rounding alone brings about in half precision. The critic is only right near the data it was
    fitted on. With one minibatch and loop.pipeline=0 nothing has moved when the step is taken, and
    lr is only annealed."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay."""
    batch: int = Field(24, ge=1)
    """Trajectories drawn from replay for one update."""
    updates_per_round: int = Field(1, ge=1)
    """Updates for each round of rollouts; batch * updates_per_round / rollout.images is how often a
    trajectory is reused."""
    minibatches: int = Field(2, ge=1)
    """Optimizer steps in an update; each sees its own part of the batch."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass in place of keeping them: a seventh of the
    memory, a third slower. auto: on a GPU where a microbatch would not fit."""
    steps_share: float = Field(0.5, gt=0, le=1)
    """Share of the steps of each trajectory that an update learns from, drawn anew for each: half
    of them cost half as much of learner and critic."""
    microbatch: int = Field(64, ge=1)
    """Latents in one forward pass; gradients are accumulated over microbatches."""
    clip_range: float = Field(1.6, gt=0)
    """Clip of the joint log-ratio of one step, in nats: beyond it importance weights are truncated,
    and the likelihood-ratio estimators learn nothing more from the step."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient norm clip."""
    kl_budget: float = Field(0.5, gt=0)
    """How far retained prompts may drift: mean KL to the frozen model in nats per denoising step,
    above what rounding alone brings about in half precision."""
    kl_weight: float = Field(1.0, ge=0)
    """Lagrange multiplier of the budget at the start."""
    kl_rate: float = Field(0.05, ge=0, le=1)
    """Speed of the multiplier; 0 keeps kl_weight fixed."""
    kl_states: int = Field(16, ge=1)
    """Retained states of the pool seen by each optimizer step."""
    anchor_weight: float = Field(800.0, ge=0)
    """What a nat of KL for each latent dimension costs, in units of the reward: the KL of target
    prompts to the frozen model under their anchors' prompts, per denoising step, at states of the
    anchors' own images; where a trait is to be forgotten, under their own prompts, at the states
    that the policy comes to. Retained prompts pay it beside their multiplier. 0 leaves it to the
    reward alone what stands in the concept's place."""
    anchor_states: int = Field(16, ge=1)
    """Such states seen by each optimizer step."""
    pool: int = Field(4096, ge=1)
    """Retained states that are kept, at most, each with the frozen model's mean: that takes a pass
    of the network after the warm-up, and 6 bytes of host memory for each latent number in half
    precision."""
