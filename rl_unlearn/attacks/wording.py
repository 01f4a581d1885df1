"""Prompts with free vectors in them: the text encoder reads chosen vectors where a word would
stand.
"""

import re
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_unlearn.errors import ConfigError
from rl_unlearn.families.condition import Condition

FREE = -1
"""Stands for a free vector in a list of token ids."""


def token_ids(pipeline: Any, text: str) -> list[int]:
    """Returns the ids of a text without start and end marks, not truncated."""
    ids: list[int] = pipeline.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def room(pipeline: Any) -> int:
    """Returns how many tokens a prompt may have; start and end marks are not counted."""
    room: int = pipeline.tokenizer.model_max_length - 2
    return room


def with_placeholder(pipeline: Any, text: str, word: str) -> list[int]:
    """Returns the ids of a text with one FREE wherever the whole word stands, or in front of the
    text if it does not occur.
    """
    parts = re.split(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE)
    if len(parts) == 1:
        parts = ["", text]
    ids = token_ids(pipeline, parts[0])
    for part in parts[1:]:
        ids += [FREE, *token_ids(pipeline, part)]
    return ids


def encode_free(
    pipeline: Any, rows: list[list[int]], vectors: Float[Tensor, "free features"]
) -> Condition:
    """Returns the condition of rows of ids; ``vectors`` fill their FREE places in reading order.

    Differentiable in them. Without FREE places it gives what the pipeline gives for the same text.
    ConfigError if a row is too long.
    """
    words, encoder = pipeline.tokenizer, pipeline.text_encoder
    longest = max(len(row) for row in rows)
    if longest > room(pipeline):
        raise ConfigError(
            f"an attacked prompt has {longest} tokens and the text encoder reads {room(pipeline)}: "
            "set a smaller attack.prefix_tokens, or shorter prompts"
        )
    marked = [[words.bos_token_id, *row, words.eos_token_id] for row in rows]
    padded = [row + [words.pad_token_id] * (words.model_max_length - len(row)) for row in marked]
    ids: Int[Tensor, "batch tokens"] = torch.tensor(padded, device=encoder.device)
    free: Bool[Tensor, "batch tokens"] = ids == FREE

    def fill(_module: object, _inputs: object, output: Tensor) -> Tensor:
        return output.masked_scatter(free[..., None], vectors.to(output.dtype))

    # The text encoder takes ids only, so its table of vectors is overruled for the time of one
    # pass.
    hook = encoder.get_input_embeddings().register_forward_hook(fill)
    try:
        return Condition({"text": encoder(ids.masked_fill(free, words.eos_token_id))[0]})
    finally:
        hook.remove()
