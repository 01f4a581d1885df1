"""Settings that are fine alone and impossible together."""

from rl_unlearn import reward_names
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError


def check(config: Config) -> None:
    """Raises ConfigError for settings under which the loop would wait for ever, or the critic learn
    what is not so.
    """
    if config.estimator.row.critic and config.sampler.eta < 1 and config.critic.renoised > 0:
        raise ConfigError(
            f"sampler.eta={config.sampler.eta:g} has other states than those of fresh noise, which "
            "the critic learns: use critic.renoised=0 with it, or sampler.eta=1"
        )
    if config.estimator.row.backprop and reward_names.trait(config.concept) is not None:
        raise ConfigError(
            f"estimator.name={config.estimator.name} goes back through the reward, and the "
            f"function of concept={config.concept} lets no gradient through: choose an estimator "
            "with a learned critic"
        )
    if config.estimator.row.backprop and config.reward.images:
        raise ConfigError(
            f"estimator.name={config.estimator.name} goes back through the reward, and those of "
            f"reward.images let no gradient through: leave {', '.join(config.reward.images)} out, "
            "or choose an estimator with a learned critic"
        )
    if config.cluster.inline and config.learner.ranks > 1:
        raise ConfigError(
            f"learner.ranks {config.learner.ranks} needs Ray: --inline is one process, use "
            "learner.ranks=1 with it"
        )
    if (config.rollout.actors_min or 1) > config.rollout.actors:
        raise ConfigError(
            f"rollout.actors_min {config.rollout.actors_min} is more than rollout.actors "
            f"{config.rollout.actors}: raise one, or lower the other"
        )
    if (config.selection.batch or 1) > config.rollout.batch:
        raise ConfigError(
            f"selection.batch {config.selection.batch} is more than the rollout.batch "
            f"{config.rollout.batch} that there is memory for: lower one, or raise the other"
        )
    updates, images, ahead = (
        config.learner.updates_per_round,
        config.rollout.images,
        config.loop.pipeline + 1,
    )
    if config.learner.batch * updates < images:
        # The rest would pile up until the rate limiter stops the rollouts.
        raise ConfigError(
            f"learner.batch * learner.updates_per_round is {config.learner.batch * updates}, less "
            f"than the rollout.images {images} of a round: raise one, or lower rollout.images"
        )
    if config.replay.max_lag < ahead * updates - 1:
        raise ConfigError(
            f"replay.max_lag {config.replay.max_lag} evicts images before they are learned from: "
            f"use at least {ahead * updates - 1}, or lower loop.pipeline"
        )
    needed = config.critic.warmup_images + (ahead + 1) * images
    if config.replay.capacity < needed:
        raise ConfigError(
            f"replay.capacity {config.replay.capacity} is too small for what must be kept: use at "
            f"least {needed}"
        )
