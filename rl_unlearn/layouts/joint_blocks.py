"""Names of the blocks in which words and image attend to each other as one (Esser et al. 2024,
arXiv 2403.03206).
"""

from rl_unlearn.layouts.names import Names, both


def joint_block(normed: bool, last: bool = False) -> Names:
    """Names the weights of a block; ``normed``: queries and keys are, ``last``: what it makes of
    the words is not read any more.
    """
    layers = ["norm1.linear", "norm1_context.linear", "ff.net.0.proj", "ff.net.2", "attn.to_out.0"]
    layers += [f"attn.to_{part}" for part in "qkv"] + [f"attn.add_{part}_proj" for part in "qkv"]
    if not last:
        layers += ["attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2"]
    norms = (
        {f"attn.norm_{part}.weight" for part in ("q", "k", "added_q", "added_k")}
        if normed
        else set()
    )
    return both(*layers) | norms


def time_and_words(*embedders: str) -> Names:
    """Names the weights of what tells the blocks the time and the pooled words."""
    return both(
        *(f"time_text_embed.{name}.linear_{i}" for name in embedders for i in (1, 2)),
        "context_embedder",
    )
