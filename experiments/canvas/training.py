"""What every training stage shares: the schedule, the running average, the recorded curve."""

import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn


def cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.01) -> float:
    """Learning-rate factor in [floor, 1]: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def bfloat16() -> torch.autocast:
    """Autocast for the matrix units of recent CPUs; weights and optimizer stay in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


class RunningAverage:
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


class Curve:
    """Loss curve of one stage, written to JSON as it grows."""

    def __init__(self, path: Path, every: int = 50) -> None:
        self.path, self.every = path, every
        self.points: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._start = time.monotonic()

    def resume(self, step: int) -> None:
        """Takes up the recorded points before `step`."""
        if step and self.path.exists():
            self.points = [
                point for point in json.loads(self.path.read_text()) if point["step"] <= step
            ]
            self._start -= self.points[-1]["seconds"] if self.points else 0.0

    def add(self, step: int, **values: float | Tensor) -> None:
        """Averages `values` over `every` steps into one point."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._count += 1
        if self._count == self.every:
            point = {name: round(total / self._count, 5) for name, total in self._sums.items()}
            self.points.append(
                {"step": step + 1, "seconds": round(time.monotonic() - self._start, 1), **point}
            )
            self._sums, self._count = {}, 0
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.points))
            print(self.path.stem, self.points[-1], flush=True)
