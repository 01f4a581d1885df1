"""What is given back to a fresh actor stays as it was given."""

import torch

from rl_unlearn.messages import load_optimizer, optimizer_tensors


def stepped(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_an_optimizer_does_not_write_into_what_it_was_loaded_from() -> None:
    # A snapshot may be given to several actors, or once more after a loss, and may lie in memory
    # that others read.
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    stepped(parameter, optimizer)
    given = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    before = {name: tensor.clone() for name, tensor in given.items()}
    load_optimizer(optimizer, given)
    stepped(parameter, optimizer)
    assert all(torch.equal(given[name], before[name]) for name in before)
    after = optimizer_tensors(optimizer)
    assert not torch.equal(after["0.exp_avg_sq"], before["0.exp_avg_sq"]), "it has gone on"
