"""Networks whose repeated blocks are compiled by torch: block by block, so that each kind of block
is compiled once for each shape.
"""

import torch
from torch import nn

BLOCKS = {
    "BasicTransformerBlock", "ResnetBlock2D",  # of UNets
    "JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock",
    "Flux2TransformerBlock", "Flux2SingleTransformerBlock", "QwenImageTransformerBlock",
    "ZImageTransformerBlock", "SanaTransformerBlock",
}  # fmt: skip
_SHAPES = 256
"""Of the blocks of one class, in all batches: torch's own limit of 8 is below what a UNet has, and
beyond it blocks are no longer compiled."""


def compile_blocks(network: nn.Module) -> int:
    """Compiles them when they are first called; returns how many there are.

    For every shape anew: a kernel for any shape, which torch makes when it has seen two, rounds
    otherwise, and then an actor's bits would depend on what it was asked before.
    """
    torch._dynamo.config.recompile_limit = _SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    blocks = [part for part in network.modules() if type(part).__name__ in BLOCKS]
    for block in blocks:
        block.compile(dynamic=False)
    return len(blocks)


def forgotten(_: torch.Tensor) -> None:
    """Keeps nothing of what a forward pass would keep for its backward pass."""


def not_there(_: None) -> torch.Tensor:
    """Raises RuntimeError: what was forgotten was asked for."""
    raise RuntimeError("a pass that keeps nothing has no gradient")
