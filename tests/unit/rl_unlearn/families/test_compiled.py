"""Compiled blocks: every family has some, and rollout and learner run the same kernels."""

import pytest
import tiny_families
import torch
from tiny_policies import PROMPTS, config, policy
from torch._dynamo.utils import counters

from rl_unlearn.families.compiled import BLOCKS


@pytest.mark.parametrize("name", tiny_families.KINDS)
def test_every_family_has_blocks(name: str) -> None:
    """They are compiled when they are first called, which no test of this one does."""
    made = policy(config(name, model={"compile": True}))
    compiled = [part for part in made.network.modules() if part._compiled_call_impl is not None]
    assert compiled
    assert {type(part).__name__ for part in compiled} <= BLOCKS


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp32", marks=pytest.mark.long)])
def test_with_and_without_gradients_the_bits_are_the_same(dtype: str) -> None:
    """And nothing is compiled a second time for the same shape, nor for single steps in a batch."""
    torch._dynamo.reset()
    counters.clear()
    made = policy(config("sd3", model={"compile": True, "dtype": dtype}))
    draw = torch.Generator().manual_seed(0)
    made.load_adapter(
        {
            name: t + 0.1 * torch.randn(t.shape, generator=draw)
            for name, t in made.adapter_state().items()
        }
    )
    latents, condition = torch.randn(2, *made.latent_shape, generator=draw), made.encode(PROMPTS)
    with torch.no_grad():
        acted = made.predict(latents, 1, condition)
    graphs = counters["stats"]["unique_graphs"]
    learned = made.predict(latents, torch.tensor([1, 1]), condition)
    assert torch.equal(acted, learned)
    assert counters["stats"]["unique_graphs"] == graphs > 0
    assert learned.requires_grad
    assert not acted.requires_grad
    learned.float().square().sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in made.parameters())
    made.network.enable_gradient_checkpointing()
    assert torch.equal(made.predict(latents, 1, condition), acted)


def test_a_pass_without_gradients_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would keep is dropped as it is made; its bits are those of any other pass."""
    plain = policy(config("sd3"))
    latents = torch.randn(2, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = plain.encode(PROMPTS)
    dropped = []
    monkeypatch.setattr("rl_unlearn.policy.compile_blocks", lambda _: 0)
    monkeypatch.setattr("rl_unlearn.policy.forgotten", dropped.append)
    made = policy(config("sd3", model={"compile": True}))
    with torch.no_grad():
        found, expected = (one.predict(latents, 1, condition) for one in (made, plain))
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert dropped
    count = len(dropped)
    made.predict(latents, 1, condition).sum().backward()
    assert len(dropped) == count, "a pass with gradients keeps what it needs"
