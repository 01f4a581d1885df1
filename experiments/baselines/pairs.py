"""What shall be drawn where the concept is asked for: each target prompt and its anchor's."""

from rl_unlearn.clip.zeroshot import load_open_clip, text_features
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.prompts import PromptBook
from rl_unlearn.rewards import anchor_classes


def anchored(config: Config, book: PromptBook) -> dict[int, int]:
    """Returns, for each target prompt, the prompt that has the anchor in the concept's place and
    the same rest; both are indices in the book.

    The anchor is the one that `train` rewards. Raises ConfigError if no prompt asks for it.
    """
    clip, tokenizer = load_open_clip(config.reward.clip, "reward")
    classes = text_features(clip, tokenizer, book.phrases[book.concept_domain])
    anchors = dict(zip(book.concepts, anchor_classes(book, classes), strict=True))
    domain, other = book.concept_domain, book.other_domain
    asking = {
        (getattr(p, domain), getattr(p, other)): i
        for i, p in reversed([*enumerate(book.prompts)])
        if not p.target
    }
    chosen = {}
    for place in book.targets:
        prompt = book.prompts[place]
        anchor = anchors[getattr(prompt, domain)]
        if (found := asking.get((anchor, getattr(prompt, other)))) is None:
            raise ConfigError(
                f"no retained prompt asks for {book.names[domain][anchor]!r} as {prompt.text!r} "
                "asks for the concept: choose another reward.anchor"
            )
        chosen[place] = found
    return chosen
