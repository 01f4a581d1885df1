"""How many images a run draws, and what for."""

from experiments.evaluation import samples
from learner.timeline import Timeline
from rl_unlearn.config import Config
from rl_unlearn.evaluation import images as evaluation
from rl_unlearn.prompts import PromptBook


def count(config: Config, book: PromptBook, evaluated: bool) -> dict[str, int]:
    """Images by what they are for; exact in synchronous mode, where nothing is lost or in a
    cache."""
    images = {
        "warm-up": config.critic.warmup_images,
        "rounds": config.loop.rounds * config.rollout.images,
        "validations": validations(config) * config.selection.images,
    }
    if evaluated:
        table, *_ = samples.choose(book)
        images["evaluation"] = 2 * len(evaluation.plan(book, config).prompts)  # before and after
        images["samples"] = 2 * sum(map(len, table))
    return images


def validations(config: Config) -> int:
    """Returns how often the selection CLIP validates: the untouched model, in the rounds, at the
    end.

    A round that the untouched model draws needs none of its own. In asynchronous mode timing
    decides whether the newest version is another one; from the second round on it is taken for one.
    """
    timeline = Timeline(config)
    versions = [
        timeline.drawn_by(r) for r in range(1, config.loop.rounds + 1, config.selection.every)
    ]
    return 2 + sum(version is None or version > 0 for version in versions) - (versions[0] is None)
