"""Half precision on CPUs without units for it: products in fp32, rounded at their end, as on a GPU.

There torch multiplies numbers one by one, a convolution of Stable Diffusion sixty times slower than
in fp32. Here inputs and weights are rounded to half precision as ever, and so is what comes out;
only the sum between is that of fp32's fast kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def products_in_fp32() -> Iterator[None]:
    """Meanwhile convolutions and linear layers under the CPU's autocast are computed so.

    They are replaced by name: a mode of torch does not reach what checkpointing computes again.
    """
    plain = {name: getattr(functional, name) for name in ("conv2d", "linear")}
    for name, product in plain.items():
        setattr(functional, name, _rounded(product))
    try:
        yield
    finally:
        for name, product in plain.items():
            setattr(functional, name, product)


def _rounded(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return product(*args, **kwargs)
        kind = torch.get_autocast_dtype("cpu")

        def single(value: Any) -> Any:
            return value.to(kind).float() if isinstance(value, Tensor) else value

        with torch.autocast("cpu", enabled=False):
            named = {name: single(value) for name, value in kwargs.items()}
            return product(*map(single, args), **named).to(kind)

    return call
