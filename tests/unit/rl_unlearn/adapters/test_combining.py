"""Several adapters at once draw what the sum of their updates draws."""

import pytest
import tiny
import torch

from experiments.evaluation.models import load_model
from rl_unlearn.adapters.adapter import AdapterState
from rl_unlearn.adapters.combining import combine
from rl_unlearn.config import Lora
from rl_unlearn.errors import DataError
from rl_unlearn.policy import DiffusionPolicy


def adapter(seed: int, rank: int, layers: str) -> AdapterState:
    config = tiny.config(lora={"rank": rank, "layers": layers})
    state = DiffusionPolicy(load_model(config.model), config).adapter_state()
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=draws) / 4 for name, tensor in state.items()}


def draw(state: AdapterState, lora: Lora) -> torch.Tensor:
    config = tiny.config().model_copy(update={"lora": lora})
    policy = DiffusionPolicy(load_model(config.model), config)
    policy.load_adapter(state)
    images: torch.Tensor = policy.generate(["a cat", "a dog"], [0, 1])
    return images


def test_the_sum_of_updates() -> None:
    first, second = adapter(0, 2, "cross"), adapter(1, 3, "attention")
    both = combine([first, second], [0.5, -2.0])
    assert both.keys() == second.keys()
    for name in (name for name in second if ".lora_A." in name):
        up = name.replace("_A.", "_B.")
        expected = -2.0 * second[up] @ second[name]
        if name in first:
            expected = expected + 0.5 * first[up] @ first[name]
        torch.testing.assert_close(both[up] @ both[name], expected)


def test_one_with_nothing_is_itself() -> None:
    first, second = adapter(0, 2, "cross"), adapter(1, 3, "self")
    alone = draw(first, Lora(rank=2, layers="cross"))
    together = draw(combine([first, second], [1.0, 0.0]), Lora(rank=5, layers="attention"))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert (
        draw(combine([first, second], [1.0, 1.0]), Lora(rank=5, layers="attention")) - alone
    ).abs().max() > 1e-2


def test_order_does_not_matter() -> None:
    first, second = adapter(0, 2, "cross"), adapter(1, 3, "cross")
    lora = Lora(rank=5, layers="cross")
    one, other = (
        draw(combine([first, second], [1.0, 0.5]), lora),
        draw(combine([second, first], [0.5, 1.0]), lora),
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_adapters_of_different_models_are_refused() -> None:
    first = adapter(0, 2, "cross")
    wrong = {
        name: torch.zeros(t.shape[0] + (".lora_B." in name), t.shape[1] + 1)
        for name, t in first.items()
    }
    with pytest.raises(DataError, match="different models"):
        combine([first, wrong], [1.0, 1.0])
