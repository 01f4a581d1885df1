"""The training loop of the stages `unet` and `distill`, in processes that average their gradients.

Two processes of one thread each are faster on two cores than one process of two threads.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from experiments.canvas.training import Curve, RunningAverage, cosine

SAVE_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains."""

    name: str
    """Name of its files: checkpoint, curve and rendezvous."""
    steps: int
    peak: float
    """Highest learning rate, after the warm-up."""
    warmup: int
    decay: float
    """Decay of the running average."""


class Checkpoint:
    """A file with a model, its running average and its optimizer's moments; the step is in its
    metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self, step: int, model: nn.Module, average: RunningAverage, optimizer: torch.optim.Optimizer
    ) -> None:
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in average.state.items()}
        for name, parameter in model.named_parameters():
            state = optimizer.state[parameter]
            if not state:  # frozen
                continue
            tensors |= {
                f"moment{i}.{name}": state[key] for i, key in enumerate(("exp_avg", "exp_avg_sq"))
            }
        partial = self.path.with_suffix(".partial")
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            partial,
            {"step": str(step)},
        )
        partial.rename(self.path)

    def restore(
        self, model: nn.Module, average: RunningAverage, optimizer: torch.optim.Optimizer
    ) -> int:
        """Loads in place, if there is a file; returns the next step."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        def part(kind: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)}

        model.load_state_dict(part("model."))
        average.state, average.steps = part("average."), step
        first, second = part("moment0."), part("moment1.")
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }
        return step


class Training:
    """One process of a stage; the first one keeps the running average and the files."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        work: Path,
        weights: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.plan, self.rank = plan, rank
        self.model, self.optimizer = model, optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.average = RunningAverage(model, plan.decay)
        self.curve = Curve(weights / "curves" / f"{plan.name}.json")
        self.checkpoint = Checkpoint(work / f"{plan.name}.safetensors")

    def restore(self) -> int:
        """Loads the checkpoint, if there is one; returns the next step."""
        first = self.checkpoint.restore(self.model, self.average, self.optimizer)
        self.curve.resume(first)
        return first

    def run(self, loss: Callable[[], Tensor], first: int = 0) -> None:
        """Takes the steps from `first` to the last; `loss` draws a batch and returns its loss."""
        plan = self.plan
        for step in range(first, plan.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = plan.peak * cosine(step, plan.steps, plan.warmup)
            value = loss()
            self.optimizer.zero_grad()
            value.backward()
            average_gradients(self.parameters)
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            if self.rank == 0:
                self.average.update(self.model)
                self.curve.add(step, loss=value.detach())
                if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
                    self.checkpoint.save(step + 1, self.model, self.average, self.optimizer)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Takes the mean of the gradients over all processes, in place."""
    if dist.is_initialized():
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        )
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


@contextmanager
def joined(rank: int, processes: int, work: Path, name: str) -> Iterator[None]:
    """Yields in the process group of `processes` peers, one thread each."""
    torch.set_num_threads(1)
    if processes == 1:
        yield
        return
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    dist.init_process_group(
        "gloo", f"file://{work}/{name}.rendezvous", rank=rank, world_size=processes
    )
    yield
    dist.destroy_process_group()


def run_in_processes(
    train: Callable[[int, int, Path, Path], None],
    processes: int,
    work: Path,
    weights: Path,
    name: str,
) -> None:
    """Calls ``train(rank, processes, work, weights)`` in as many processes, in this one if it is
    one.
    """
    (work / f"{name}.rendezvous").unlink(missing_ok=True)
    if processes > 1:
        spawn(train, (processes, work, weights), nprocs=processes)
    else:
        train(0, 1, work, weights)
