"""Masters of an adapter: fp32 whatever the network multiplies by, and so are their gradients."""

import pytest
import tiny
import torch

from learner.rounding import _nudged
from rl_unlearn.adapters import lora
from rl_unlearn.adapters.adapter import digest
from rl_unlearn.policy import DiffusionPolicy

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
PROMPTS = ["A cat image in flat style.", "A dog image in noto style."]


def policy(dtype: str) -> DiffusionPolicy:
    config = tiny.config(model={"dtype": dtype}, sampler={"guidance": 2.0})
    return DiffusionPolicy(tiny.load_quickly(config.model), config)


def loss(made: DiffusionPolicy, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, *tiny.SHAPE, generator=draw)
    output = made.predict(latents, torch.tensor([0, 2]), made.encode(PROMPTS))
    return output.float().square().mean()


def test_in_fp32_the_network_multiplies_by_the_masters() -> None:
    made = policy("fp32")
    copies = lora.parameters(made.network)
    assert all(copies[name] is master for name, master in made._adapter.masters.items())


@pytest.mark.parametrize("dtype", HALF)
def test_the_network_multiplies_by_copies_of_its_type(dtype: str) -> None:
    made = policy(dtype)
    state = {name: tensor + 1 / 3 for name, tensor in made.adapter_state().items()}
    made.load_adapter(state)
    assert digest(made.adapter_state()) == digest(state), "no bit of what was handed over is lost"
    for name, copy in lora.parameters(made.network).items():
        assert copy.dtype == HALF[dtype]
        assert torch.equal(copy, state[name].to(HALF[dtype]))
        assert not torch.equal(copy.float(), state[name]), "the test has lost its point"


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_microbatches_are_added_in_fp32(dtype: str) -> None:
    made, single = policy(dtype), []
    for seed in range(3):
        loss(made, seed).backward()
        single.append([parameter.grad for parameter in made.parameters()])
        for parameter in made.parameters():
            parameter.grad = None
    for seed in range(3):
        loss(made, seed).backward()
    rounded = False
    for parameter, *parts in zip(made.parameters(), *single, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, parts[0] + parts[1] + parts[2])
        in_half = parts[0].to(HALF[dtype]) + parts[1].to(HALF[dtype]) + parts[2].to(HALF[dtype])
        rounded |= not torch.equal(parameter.grad, in_half.float())
    assert rounded, "the test has lost its point"
    assert all(copy.grad is None for copy in lora.parameters(made.network).values())


@pytest.mark.parametrize("dtype", HALF)
def test_steps_that_a_copy_cannot_hold_add_up(dtype: str) -> None:
    made = policy(dtype)
    made.load_adapter({name: torch.ones_like(t) for name, t in made.adapter_state().items()})
    step = torch.finfo(HALF[dtype]).eps / 8
    for number in range(1, 9):
        for master in made.parameters():
            master.data += step
        made.renew_adapter()
        moved = {copy.max().item() for copy in lora.parameters(made.network).values()}
        assert (moved == {1.0}) == (number <= 4), number


@pytest.mark.parametrize("dtype", HALF)
def test_the_nudge_of_the_floor_survives_the_copy(dtype: str) -> None:
    made = policy(dtype)
    before = {name: copy.clone() for name, copy in lora.parameters(made.network).items()}
    made.load_adapter(_nudged(made.adapter_state(), seed=0))
    for name, copy in lora.parameters(made.network).items():
        changed = (copy != before[name]).float().mean().item()
        assert changed == (1.0 if ".lora_B." in name else 0.0)
