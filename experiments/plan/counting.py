"""Counts what computations on the meta device would take: FLOPs, bytes kept for backward, bytes in
use at once.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from learner.checkpointing import kept, storage

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_FORMULAS: dict[Any, Callable[..., int]] = {
    _FUSED: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    _FUSED_BACKWARD: lambda above, query, key, value, *_, **__: sdpa_backward_flop_count(
        above, query, key, value
    ),
}


def counter() -> FlopCounterMode:
    """Counts FLOPs, also of the CPU's fused attention, which torch leaves out; two for a
    multiply-add.
    """
    mode = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    mode.mod_tracker = _Nowhere()  # type: ignore[assignment]
    return mode


class _Nowhere:
    """Stands in for the counter's tracker of modules, which holds tensors and which some calls of
    autograd refuse.
    """

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Device(TorchFunctionMode):
    """Computes on meta tensors as a GPU does.

    Attention is the fused one: torch would take the plain one, with its large tables.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Takes any call of torch; most are left as they are."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            with _inside():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def _inside() -> Iterator[None]:
    """The fused attention for a function of torch's own, whose calls no mode sees."""
    plain = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _attend  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **_others: object,
) -> Tensor:  # fmt: skip
    query, key = query.to(value.dtype), key.to(value.dtype)
    if attn_mask is not None:
        attn_mask = attn_mask.to(value.dtype)
    answer: Tensor = _FUSED(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return answer


@dataclass(frozen=True)
class Count:
    """What one computation takes."""

    forward: int
    """FLOPs."""
    backward: int
    """FLOPs; 0 if nothing is trained."""
    kept: int
    """Bytes kept from forward to backward, weights left out."""
    peak: int
    """Bytes in use at once in a forward whose gradient nobody asks for, weights left out."""
    learning: int
    """Bytes in use at once in a forward and its backward pass, weights left out."""


def count(compute: Callable[[], Tensor], weights: Iterable[Tensor], trained: bool) -> Count:
    """Counts what `compute` takes, `weights` left out; with `trained` its backward pass, too."""
    held = {storage(weight) for weight in weights}
    with Device(), torch.no_grad(), _Live(held) as live, counter() as forward:
        compute()
    if not trained:
        return Count(forward.get_total_flops(), 0, 0, live.peak, 0)
    learning = _Live(held)
    with Device(), torch.enable_grad(), learning:
        # What autograd keeps is another tensor than the one that a call returned.
        with kept(held, learning.hold) as sizes:
            total = compute().float().sum()
        bytes_kept = sum(sizes.values())
        with counter() as backward:  # with checkpointing the forward pass once more, too
            total.backward()
    return Count(
        forward.get_total_flops(), backward.get_total_flops(), bytes_kept, live.peak, learning.peak
    )


@dataclass
class _Live(TorchDispatchMode):
    """Follows the bytes of all tensors that a computation makes until nobody holds them."""

    held: set[int]
    peak: int = 0
    _now: int = 0
    _holders: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Takes any call."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and storage(tensor) not in self.held:
                self.hold(tensor)
        if func is torch.ops.aten.convolution.default:  # may lay both out anew for itself
            self.peak = max(self.peak, self._now + args[0].nbytes + result.nbytes)
        return result

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor until it is gone; one that is counted already counts once."""
        name, size = storage(tensor), tensor.untyped_storage().nbytes()
        if name not in self._holders:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._holders[name] = self._holders.get(name, 0) + 1
        weakref.finalize(tensor, self._release, name, size)

    def _release(self, name: int, size: int) -> None:
        self._holders[name] -= 1
        if not self._holders[name]:
            del self._holders[name]
            self._now -= size
