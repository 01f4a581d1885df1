"""Concept inversion: a new word, learned on the erased model, that means the forgotten concept.

Textual inversion (Gal et al. 2022, arXiv 2208.01618, eq. 2) turned against unlearning (Pham et al.
2023, arXiv 2308.01508): one vector takes the place of the concept's name in every prompt; the model
stays as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.attacks.denoising import descend, draw
from rl_unlearn.attacks.references import References
from rl_unlearn.attacks.wording import FREE, encode_free, token_ids, with_placeholder
from rl_unlearn.config import Attack
from rl_unlearn.errors import ConfigError
from rl_unlearn.families.condition import Condition
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook


def invert(
    policy: DiffusionPolicy,
    book: PromptBook,
    references: References,
    attack: Attack,
    source: torch.Generator,
    microbatch: int,
) -> Float[Tensor, " features"]:
    """Returns the vector of the new word; it starts as the mean of the vectors of the concept's
    name.
    """
    table = policy.family.pipeline.text_encoder.get_input_embeddings().weight.detach()
    word = name(book)
    vector = torch.nn.Parameter(table[token_ids(policy.family.pipeline, word)].mean(dim=0))
    optimizer = torch.optim.AdamW(
        [vector], lr=attack.inversion_rate * table.std(dim=0).mean().item(), weight_decay=0
    )
    for _ in range(attack.inversion_steps):
        rows = torch.randint(len(references), (attack.draws,), generator=source).tolist()
        draws = draw(policy, references.latents[rows], source)
        texts = [book.prompts[references.prompts[row]].text for row in rows]
        descend(
            optimizer,
            policy,
            draws,
            lambda part: encode(policy, texts[part], word, vector),  # noqa: B023
            microbatch,
        )
    return vector.detach()


def encode(
    policy: DiffusionPolicy, texts: list[str], word: str, vector: Float[Tensor, " features"]
) -> Condition:
    """Prompts with the new word in place of ``word``."""
    rows = [with_placeholder(policy.family.pipeline, text, word) for text in texts]
    count = sum(row.count(FREE) for row in rows)
    return encode_free(policy.family.pipeline, rows, vector.expand(count, -1))


def name(book: PromptBook) -> str:
    """Returns the word that the prompts call the concept by."""
    if len(book.concepts) > 1:
        raise ConfigError(
            "an inversion looks for one concept: attack them one by one, with concept=NAME"
        )
    return book.names[book.concept_domain][book.concepts[0]]
