"""FLOPs of a run, phase by phase, from those of one pass of each network."""

from dataclasses import dataclass

from experiments.plan.counting import Count, count
from experiments.plan.critic import Eye, Judgement, eye, judgement
from experiments.plan.hollow import Hollow
from rl_unlearn.config import Config
from rl_unlearn.layouts.schedulers import Schedule
from rl_unlearn.prompts import PromptBook
from rl_unlearn.steps import chosen_of


@dataclass(frozen=True)
class Slopes:
    """What the reward's gradient by the latents takes, of one image."""

    step: Count
    """Through the network's pass, for one branch of the guidance."""
    decode: Count


@dataclass(frozen=True)
class Costs:
    """What one of each thing takes."""

    config: Config
    step: Count
    """The network's pass for one image and one branch of the guidance."""
    decode: Count
    """One image."""
    branches: int
    learned: int
    """Steps of a trajectory that can be learned from."""
    reward: Eye | None
    selection: Eye | None
    critic: Judgement | None
    """None: the estimator needs none, or its CLIP cannot be told."""
    slopes: Slopes | None = None
    """None: the estimator asks for no such gradients."""

    @property
    def guided(self) -> int:
        """FLOPs of a guided forward of one image."""
        return self.branches * self.step.forward

    @property
    def image(self) -> int:
        """FLOPs of drawing one image."""
        return self.config.sampler.steps * self.guided + self.decode.forward

    @property
    def judged(self) -> int:
        """FLOPs of drawing one image of the evaluation."""
        schedule = Schedule.of(self.config)
        if schedule is None:
            return self.image
        return schedule.steps * self.guided + self.decode.forward

    @property
    def sample(self) -> int:
        """FLOPs of an image that is rewarded."""
        rewarded = 1 + (self.config.sampler.steps if self.config.estimator.row.predicts else 0)
        seen = self.reward.image.forward if self.reward else 0
        again = (rewarded - 1) * self.decode.forward + rewarded * seen
        return self.image + again + self.backprop

    @property
    def backprop(self) -> int:
        """FLOPs of the reward's gradients by all actions of an image, if they are asked for."""
        if self.slopes is None:
            return 0
        steps = (self.config.sampler.steps - 1) * self.branches
        passes = [(steps, self.slopes.step), (1, self.slopes.decode)]
        passes += [(1, self.reward.slope)] if self.reward else []
        return sum(times * (one.forward + one.backward) for times, one in passes)

    @property
    def validation(self) -> int:
        """Returns the FLOPs of an image of a validation."""
        eyes = [clip.image.forward for clip in (self.reward, self.selection) if clip]
        return self.image + sum(eyes)

    @property
    def learn(self) -> int:
        """FLOPs of a (trajectory, step) in the learner, forward and backward."""
        return self.branches * (self.step.forward + self.step.backward)

    @property
    def update(self) -> int:
        """FLOPs of the steps of one image that an update learns from."""
        return self.chosen * self.learn

    @property
    def chosen(self) -> int:
        """Steps of a trajectory that an update learns from."""
        return chosen_of(self.learned, self.config.learner.steps_share)

    @property
    def fit(self) -> int:
        """FLOPs of one step of the critic."""
        if self.critic is None:
            return 0
        return self.config.critic.minibatch * (self.critic.fit.forward + self.critic.fit.backward)

    @property
    def score(self) -> int:
        """FLOPs of the critic's view of one trajectory."""
        if self.critic is None:
            return 0
        one, asked = self.critic.gradient, self.config.estimator.row.gradients
        gradients = self.chosen * (one.forward + one.backward) if asked else 0
        states = 0 if asked == "actions" else self.config.sampler.steps + 1
        return states * self.critic.fit.forward + gradients


def of(config: Config, book: PromptBook, hollow: Hollow) -> Costs:
    """Counts one of each thing."""
    vae = hollow.family.autoencoder.vae
    reward, selection = (
        eye(config.reward.clip, "reward", book),
        eye(config.selection.clip, "selection", book),
    )
    shape, learned = hollow.family.latent_shape, len(hollow.family.kernel.learned)
    return Costs(
        config,
        count(
            hollow.forward,
            [*hollow.network.parameters(), *hollow.network.buffers()],
            trained=True,
        ),
        count(hollow.decode, [*vae.parameters()], trained=False),
        hollow.branches,
        learned,
        reward,
        selection,
        judgement(config, book, reward, shape) if reward and config.estimator.row.critic else None,
        _slopes(hollow) if config.estimator.row.backprop else None,
    )


def _slopes(hollow: Hollow) -> Slopes:
    adapter = hollow.adapter
    for parameter in adapter:
        parameter.requires_grad_(False)
    network = [*hollow.network.parameters(), *hollow.network.buffers()]
    latents = hollow.latents().requires_grad_()
    step = count(lambda: hollow.forward(latents), network, trained=True)
    for parameter in adapter:
        parameter.requires_grad_()
    vae = hollow.family.autoencoder.vae
    return Slopes(step, count(lambda: hollow.decode(latents), [*vae.parameters()], trained=True))


@dataclass(frozen=True)
class Kept:
    """Images of the warm-up whose states the learner keeps."""

    retained: int
    """Whose prompts are to be kept."""
    anchored: int
    """Of the anchors' prompts, once for each target prompt that they stand for."""
    own: bool = False
    """Whether the policy's own states are held in their place, each batch's anew."""


def pooled(costs: Costs, kept: Kept) -> tuple[int, int]:
    """Returns the states of the retention pool, and those of the anchors."""
    config, learner = costs.config, costs.config.learner
    steps = config.loop.rounds * learner.updates_per_round * learner.minibatches
    of_each = ((kept.retained, learner.kl_states), (kept.anchored, learner.anchor_states))
    retained, anchored = (
        min(learner.pool, steps * looked_at, images * costs.learned)
        for images, looked_at in of_each
    )
    return retained, anchored


def by_role(costs: Costs, kept: int, own: int = 0) -> dict[str, int]:
    """Returns the FLOPs of one update, by who does what; ``kept``: states held beside each
    minibatch, of which ``own`` are the batch's and want the frozen model's answer first.
    """
    learner = costs.config.learner
    minibatches = min(learner.minibatches, learner.batch * costs.chosen)
    reweighs = costs.config.estimator.row.reweighs
    again = learner.batch * costs.learned * costs.guided if reweighs else 0
    return {
        "critic, fit": costs.config.critic.steps * costs.fit,
        "critic, score": learner.batch * costs.score,
        "learner": learner.batch * costs.update
        + minibatches * (kept * costs.learn + own * costs.guided)
        + again,
    }


def phases(costs: Costs, images: dict[str, int], kept: Kept) -> dict[str, int]:
    """FLOPs of each phase."""
    config, learner = costs.config, costs.config.learner
    updates = config.loop.rounds * config.learner.updates_per_round
    retained, anchored = pooled(costs, kept)
    own = learner.anchor_states if kept.own and retained else 0
    held = min(learner.kl_states, retained) + min(learner.anchor_states, anchored) + own
    update = by_role(costs, held, own)
    flops = {
        "warm-up": images["warm-up"] * costs.sample
        + (retained + anchored) * costs.guided
        + config.critic.warmup_steps * costs.fit,
        "rollouts": images["rounds"] * costs.sample,
        "learner": updates * update["learner"],
        "critic": updates * (update["critic, fit"] + update["critic, score"]),
        "validations": images["validations"] * costs.validation,
    }
    if "evaluation" in images:
        flops["evaluation"] = (images["evaluation"] + images["samples"]) * costs.judged
    return flops
