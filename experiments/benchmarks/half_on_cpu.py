"""Half precision on CPUs without units for it: products in fp32, rounded at their end, as on a GPU.

There torch multiplies numbers one by one, a convolution of Stable Diffusion sixty times slower than
in fp32. Here inputs and weights are rounded to half precision as ever, and so is what comes out;
only the sum between is that of fp32's fast kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def quick() -> AbstractContextManager[None]:
    """:func:`products_in_fp32` on a machine without a GPU; with one nothing is changed."""
    return nullcontext() if torch.cuda.is_available() else products_in_fp32()


@contextmanager
def products_in_fp32() -> Iterator[None]:
    """Meanwhile convolutions and linear layers of half precision on the CPU are computed so.

    They are replaced by name: a mode of torch does not reach what checkpointing computes again. A
    plan, which computes on no device, must be made outside.
    """
    plain = {name: getattr(functional, name) for name in ("conv2d", "linear")}
    weights = _Weights()
    for name, product in plain.items():
        setattr(functional, name, _rounded(product, weights))
    try:
        yield
    finally:
        for name, product in plain.items():
            setattr(functional, name, product)


class _Weights:
    """Frozen weights in fp32, made once: that takes longer than to multiply a few rows by them."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}

    def single(self, weight: Tensor) -> Tensor:
        key = weight.data_ptr(), weight.shape
        if key not in self._known:
            self._known[key] = weight, weight.float()  # held, so that no other one takes its place
        return self._known[key][1]


def _rounded(product: Callable[..., Tensor], weights: _Weights) -> Callable[..., Tensor]:
    def call(
        given: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **how: Any
    ) -> Tensor:
        kind = weight.dtype
        if kind == torch.float32:
            return product(given, weight, bias, *args, **how)
        single = weight.float() if weight.requires_grad else weights.single(weight)
        added = None if bias is None else bias.float()
        return product(given.float(), single, added, *args, **how).to(kind)

    return call
