"""Unified Concept Editing: the cross-attention's keys and values in closed form (Gandikota et al.
2023, arXiv 2308.14761, eq. 7).

With words ``c`` of the concept, ``c*`` of its anchor and ``p`` of what is kept, each key or value
layer ``W`` becomes the one that minimises

    sum |W' c - W c*|^2 + preserve sum |W' p - W p|^2 + ridge |W' - W|^2 .

Its change is ``W E M^-1`` with ``E = sum (c* - c) c^T`` and ``M = sum c c^T + preserve sum p p^T +
ridge I``: the same low-rank factor for all layers, so the edit is an adapter, without a remainder
as long as its rank holds as many directions as words differ.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.config import Config
from rl_unlearn.errors import ConfigError
from rl_unlearn.policy import DiffusionPolicy
from rl_unlearn.prompts import PromptBook

_EDITED = re.compile(r".*\.attn2\.to_[kv]")
Words = Float[Tensor, "words features"]


@dataclass(frozen=True)
class Edit:
    """The change of every key and value layer ``W``: ``W @ left @ right``."""

    left: Float[Tensor, "features rank"]
    right: Float[Tensor, "rank features"]
    lost: float
    """Share of the change, by its Frobenius norm, that the rank has no room for; 0 to 1."""


def edit(
    concept: Words, anchor: Words, kept: Words, preserve: float, ridge: float, rank: int
) -> Edit:
    """Solves for the change, in fp64; row i of ``anchor`` stands for row i of ``concept``."""
    concept, anchor, kept = concept.double(), anchor.double(), kept.double()
    known = concept.T @ concept + preserve * (kept.T @ kept)
    known += ridge * torch.eye(len(known), dtype=known.dtype)
    wanted = (anchor - concept).T @ concept
    u, s, v = torch.linalg.svd(torch.linalg.solve(known, wanted, left=False))
    lost = float(s[rank:].norm() / s.norm()) if s.norm() > 0 else 0.0
    rank = min(rank, len(s))
    return Edit(u[:, :rank] * s[:rank], v[:rank], lost)


def erase(
    policy: DiffusionPolicy, config: Config, book: PromptBook, anchored: Mapping[int, int]
) -> tuple[AdapterState, float]:
    """Returns the adapter and the share of the edit that its rank has no room for.

    Raises ConfigError for a model whose network does not read the prompt's words themselves, or an
    adapter that leaves its keys and values alone.
    """
    state = policy.adapter_state()
    layers = [name.removesuffix(".lora_A.weight") for name in state if name.endswith("A.weight")]
    edited = [layer for layer in layers if _EDITED.fullmatch(layer)]
    if not edited:
        raise ConfigError(
            "erase.method=uce edits the keys and values of a UNet's cross-attention, and this "
            f"model or lora.layers={config.lora.layers} has none: use esd or ca"
        )
    change = _of_words(policy, config, book, anchored)
    weights: dict[str, Tensor] = dict(policy.network.named_parameters())
    for layer in edited:
        weight = _weight(weights, layer)
        down, up = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        state[down], state[up] = torch.zeros_like(state[down]), torch.zeros_like(state[up])
        held = len(change.right)
        state[down][:held] = change.right.float()
        state[up][:, :held] = (weight @ change.left).float()
    return state, change.lost


def _weight(weights: Mapping[str, Tensor], layer: str) -> Float[Tensor, "outputs features"]:
    return weights[f"{layer}.base_layer.weight"].detach().cpu().double()


def _of_words(
    policy: DiffusionPolicy, config: Config, book: PromptBook, anchored: Mapping[int, int]
) -> Edit:
    tokenizer: Any = policy.family.pipeline.tokenizer
    tokens = [tokenizer(prompt.text, truncation=True).input_ids for prompt in book.prompts]
    words = policy.encode([prompt.text for prompt in book.prompts]).text.float()
    concept, anchor = [], []
    for asked, its in anchored.items():
        first, first_of_anchor = starts(tokens[asked], tokens[its])
        count = words.shape[1] - max(first, first_of_anchor)
        concept.append(words[asked, first : first + count])
        anchor.append(words[its, first_of_anchor : first_of_anchor + count])
    return edit(
        torch.cat(concept), torch.cat(anchor), words[book.retained].flatten(0, 1),
        config.erase.preserve, config.erase.ridge, config.lora.rank,
    )  # fmt: skip


def starts(concept: Sequence[int], anchor: Sequence[int]) -> tuple[int, int]:
    """Returns where two prompts are laid beside each other: at the last token in which they differ.

    What comes before it has not read the concept; what follows is the same in both, and so are the
    marks that fill them up. Raises ConfigError if they are the same prompt to the tokenizer.
    """
    if list(concept) == list(anchor):
        raise ConfigError(
            "the tokenizer cannot tell a prompt of the concept from its anchor's: choose another "
            "reward.anchor"
        )
    same = 0
    while same < min(len(concept), len(anchor)) and concept[-1 - same] == anchor[-1 - same]:
        same += 1
    return max(0, len(concept) - same - 1), max(0, len(anchor) - same - 1)
