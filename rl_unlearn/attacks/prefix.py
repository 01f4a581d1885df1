"""Adversarial prefix: a few real words before the prompt that bring the concept back.

The objective is UnlearnDiffAtk's (Zhang et al. 2023, arXiv 2310.11868, eq. 4): the model's own
denoising loss on images of the concept, under the attacked prompt. The search is projected gradient
on token vectors (Wen et al. 2023, arXiv 2302.03668, algorithm 1): the gradient is taken at the
nearest vocabulary tokens and moves free vectors.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_unlearn.attacks.denoising import descend, draw
from rl_unlearn.attacks.wording import FREE, encode_free, room, token_ids
from rl_unlearn.config import Attack
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy


@dataclass(frozen=True)
class Prefix:
    """Words found for one prompt: ``words + " " + prompt`` is read as exactly these tokens, then
    the prompt's.
    """

    words: str
    ids: tuple[int, ...]
    loss: float
    """Denoising loss of the references under it."""


class Vocabulary:
    """Tokens that survive being written and read again as a word of their own: no marks, no
    beginnings of words.
    """

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline
        tokenizer = pipeline.tokenizer
        table = pipeline.text_encoder.get_input_embeddings().weight.detach()
        marks = set(tokenizer.all_special_ids)
        ids = [i for i in range(min(len(tokenizer), len(table))) if i not in marks]
        # Not every tokenizer file tells its decoder that "</w>" marks the end of a word.
        texts = [
            text.strip().removesuffix("</w>") for text in tokenizer.batch_decode([[i] for i in ids])
        ]
        read = tokenizer(texts, add_special_tokens=False).input_ids
        kept = [(i, text) for i, text, again in zip(ids, texts, read, strict=True) if again == [i]]
        if not kept:
            raise DataError(
                "the model's tokenizer has no whole-word tokens: a prefix of real words cannot be "
                "searched"
            )
        self.ids = [i for i, _ in kept]
        self.texts = [text for _, text in kept]
        self.vectors: Float[Tensor, "words features"] = table[self.ids]

    def nearest(self, vectors: Float[Tensor, "... features"]) -> Int[Tensor, "..."]:
        """Returns the positions in ``ids`` of the words whose vectors are nearest (Euclidean)."""
        return (
            torch.cdist(vectors.flatten(0, -2), self.vectors).argmin(dim=1).view(vectors.shape[:-1])
        )

    def written(self, places: list[int], prompt: str) -> tuple[str, tuple[int, ...]] | None:
        """Returns words and token ids at some positions; None if, before the prompt, they would be
        read as other tokens.
        """
        words, ids = " ".join(self.texts[p] for p in places), tuple(self.ids[p] for p in places)
        whole = token_ids(self._pipeline, f"{words} {prompt}")
        return (words, ids) if whole == [*ids, *token_ids(self._pipeline, prompt)] else None


def random_prefix(
    vocabulary: Vocabulary, prompt: str, attack: Attack, source: torch.Generator
) -> str:
    """Returns random words of the same length, the control of the search."""
    for _ in range(100):
        places = torch.randint(
            len(vocabulary.ids), (attack.prefix_tokens,), generator=source
        ).tolist()
        if written := vocabulary.written(places, prompt):
            return written[0]
    raise DataError(
        "no random words before the prompt are read back as they were written: check the tokenizer"
    )


def search(
    policy: DiffusionPolicy,
    vocabulary: Vocabulary,
    prompt: str,
    references: Float[Tensor, "images channels height width"],
    attack: Attack,
    source: torch.Generator,
    microbatch: int,
) -> Prefix:
    """Returns the prefix of lowest loss over all restarts and steps; the same noisy references
    judge every candidate.

    Raises ConfigError if prefix and prompt do not fit the text encoder.
    """
    asked = token_ids(policy.family.pipeline, prompt)
    free = room(policy.family.pipeline) - len(asked)
    if attack.prefix_tokens > free:
        raise ConfigError(
            f"attack.prefix_tokens={attack.prefix_tokens} does not fit before {prompt!r}: "
            f"{max(0, free)} are free"
        )
    restarts, tokens = attack.prefix_restarts, attack.prefix_tokens
    chosen = references[torch.arange(attack.draws) % len(references)]
    draws = draw(policy, chosen, source).repeated(restarts)
    start = torch.randint(len(vocabulary.ids), (restarts, tokens), generator=source)
    vectors = torch.nn.Parameter(vocabulary.vectors[start].clone())
    rate = attack.prefix_rate * vocabulary.vectors.std(dim=0).mean().item()
    optimizer = torch.optim.AdamW([vectors], lr=rate, weight_decay=0.0)
    best: Prefix | None = None
    for _ in range(attack.prefix_steps):
        places = vocabulary.nearest(vectors.detach())
        embed = functools.partial(
            _embed, policy, asked, vectors, vocabulary.vectors[places], attack.draws
        )
        loss = descend(optimizer, policy, draws, embed, microbatch).view(restarts, -1).mean(dim=1)
        for row, value in zip(places.tolist(), loss.tolist(), strict=True):
            if best is None or value < best.loss:
                written = vocabulary.written(row, prompt)
                best = Prefix(*written, value) if written else best
    if best is None:
        raise DataError(
            f"no prefix of {prompt!r} is read back as it was written: set a larger "
            "attack.prefix_restarts"
        )
    return best


def _embed(
    policy: DiffusionPolicy,
    asked: list[int],
    vectors: Float[Tensor, "restarts tokens features"],
    words: Float[Tensor, "restarts tokens features"],
    each: int,
    rows: slice,
) -> Condition:
    restarts, tokens, _ = vectors.shape
    # Straight through: the network reads real words, the gradient goes to the free vectors.
    read = vectors + (words - vectors).detach()
    condition = encode_free(
        policy.family.pipeline, [[FREE] * tokens + asked] * restarts, read.flatten(0, 1)
    )
    return condition.repeated(each)[rows]
