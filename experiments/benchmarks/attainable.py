"""The rate at which this machine multiplies: one large matrix product, and a network's own products
one by one.

A network's own convolutions and linear layers are done alone, in the shapes, layouts and types that
a pass has, with nothing between them: a pass cannot be faster than they are together unless it
computes them in another way.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.cost import synchronize
from experiments.plan.counting import counter

_SIDE = {"cpu": 1024, "cuda": 8192}
_REPEATS = 7


@dataclass(frozen=True)
class Rate:
    """FLOPs, and the seconds that they take at best."""

    flops: float
    seconds: float

    @property
    def per_second(self) -> float:
        """FLOP/s."""
        return self.flops / self.seconds

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.flops + other.flops, self.seconds + other.seconds)

    def times(self, count: int) -> "Rate":
        """Returns so many of it."""
        return Rate(self.flops * count, self.seconds * count)


@dataclass(frozen=True)
class _Product:
    """A layer and its input; equal ones are timed once."""

    layer: str
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    moves: bool
    """Whether its input's gradient is asked for."""
    trained: bool


def matrix_product(device: torch.device, dtype: torch.dtype) -> Rate:
    """Returns the rate of one large product."""
    side = _SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device).to(dtype).unbind()
    return Rate(2.0 * side**3, best(lambda: left @ right))


def best(work: Callable[[], Any], repeats: int = _REPEATS) -> float:
    """Returns the fewest seconds that it took, once it was warm: CPU-seconds, or a GPU's time."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    work()
    taken = []
    for _ in range(repeats):
        synchronize()
        start = clock()
        work()
        synchronize()
        taken.append(clock() - start)
    return min(taken)


def products(network: nn.Module, run: Callable[[], Any]) -> Rate:
    """Returns the rate of all products of a pass; ``run`` makes it, with gradients or without.

    A product whose gradients the pass would have computed has its backward pass, too.
    """
    layers: dict[str, nn.Module] = {}
    found: Counter[_Product] = Counter()
    with _noted(network, layers, found):
        run()
    total = Rate(0.0, 0.0)
    for product, count in found.items():
        total += _alone(layers[product.layer], product).times(count)
    return total


@contextmanager
def _noted(
    network: nn.Module, layers: dict[str, nn.Module], found: "Counter[_Product]"
) -> Iterator[None]:
    """Meanwhile every convolution and linear layer notes its calls."""

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        (given,) = inputs
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in layer.parameters())
        name = f"{layer} {layer.weight.stride()}"
        layers.setdefault(name, layer)
        moves = torch.is_grad_enabled() and given.requires_grad
        found[_Product(name, given.shape, given.stride(), given.dtype, moves, trained)] += 1

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [
        layer.register_forward_pre_hook(note)
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _alone(layer: nn.Module, product: _Product) -> Rate:
    weights = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    given = torch.empty_strided(
        product.shape, product.stride, dtype=product.dtype, device=next(layer.parameters()).device
    ).normal_()
    given.requires_grad_(product.moves)
    asked = [given] * product.moves + weights * product.trained
    with torch.set_grad_enabled(bool(asked)):
        above = torch.randn_like(layer(given))
        once = functools.partial(_once, layer, given, asked, above)
        with counter() as count:
            once()
        return Rate(float(count.get_total_flops()), best(once))


def _once(layer: nn.Module, given: Tensor, asked: list[Tensor], above: Tensor) -> None:
    answer = layer(given)
    if asked:
        torch.autograd.grad(answer, asked, above)
