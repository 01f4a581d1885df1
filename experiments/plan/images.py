"""How many images a run draws, and what for."""

from experiments.evaluation import samples
from learner.timeline import Timeline
from rl_unlearn.config import Config
from rl_unlearn.evaluation import images as evaluation
from rl_unlearn.prompts import NEAREST, PromptBook


def count(config: Config, book: PromptBook, evaluated: bool) -> dict[str, int]:
    """Images by what they are for; exact in synchronous mode, where nothing is lost or in a
    cache."""
    images = {
        "warm-up": config.critic.warmup_images,
        "rounds": config.loop.rounds * config.rollout.images,
        "validations": validations(config) * config.selection.images,
    }
    if evaluated:
        images["evaluation"] = 2 * len(evaluation.plan(book, config).prompts)  # before and after
        images["evaluation"] += _of_anchors(config, book)
        tables = (samples.choose(book)[0], samples.choose_variety(book)[0])
        images["samples"] = 2 * sum(len(row) for table in tables for row in table)
    return images


def _of_anchors(config: Config, book: PromptBook) -> int:
    """Returns the images of what shall stand in the concept's place; at most so many where the
    nearest classes of several concepts are to be found yet.
    """
    if book.trait is not None:
        return 0
    rests = {getattr(book.prompts[place], book.other_domain) for place in book.targets}
    shared = len(book.concepts) == 1 or book.anchors[0] != NEAREST
    each = config.evaluation.each(target=True)
    return each * len(rests) * (1 if shared else len(book.concepts))


def validations(config: Config) -> int:
    """Returns how often the selection CLIP validates: the untouched model, in the rounds, at the
    end.

    A round that the untouched model draws needs none of its own; where a run starts from another
    adapter there is no such round. In asynchronous mode timing decides whether the newest version
    is another one; from the second round on it is taken for one.
    """
    timeline = Timeline(config)
    versions = [
        timeline.drawn_by(r) for r in range(1, config.loop.rounds + 1, config.selection.every)
    ]
    if config.lora.start is not None:
        return 2 + len(versions)
    return 2 + sum(version is None or version > 0 for version in versions) - (versions[0] is None)
