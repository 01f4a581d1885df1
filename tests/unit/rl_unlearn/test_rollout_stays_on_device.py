"""A rollout hands everything over to the device at its beginning: no step waits for the host."""

from typing import Any

import pytest
import tiny_families
import torch
from tiny_policies import PROMPTS, config, policy
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rl_unlearn.kernel import Kernel

META = torch.device("meta")
"""Stands for a GPU: whoever asks one of its tensors for a number fails."""


class _Host(TorchDispatchMode):
    """Lists the calls that make or read a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        if any(tensor.device != META for tensor in tensors):
            self.calls.append(str(func))
        return result


@pytest.mark.parametrize("name", tiny_families.KINDS)
def test_after_its_first_step_a_rollout_needs_nothing_of_the_host(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = policy(config(name, sampler={"steps": 4, "guidance": 2.0}))
    condition, step, seen = made.encode(PROMPTS), Kernel.step, []
    made.network.to(META)
    made.device = META
    if made._uncond is not None:
        made._uncond = made._uncond.to(META, made.dtype)

    def noted(*args: Any, **how: Any) -> Any:
        done = step(*args, **how)
        seen.append(len(host.calls))
        return done

    monkeypatch.setattr(Kernel, "step", noted)
    with sdpa_kernel(SDPBackend.MATH), _Host() as host:
        latents, log_probs, means = made.rollout(condition, [3, 1])
    assert latents.device == log_probs.device == means.device == META
    assert len(seen) == 4
    assert host.calls[seen[0] : seen[-1]] == []
    assert seen[0] > 0, "the test has lost its point: noise and prompts come from the host"
