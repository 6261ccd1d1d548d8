"""An engine for trainers that have loaded weights and optimiser before they ask for one."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from itop import SparseEngine
from itop.integrations.resuming import attach, innermost


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


def make(seed: int = 0) -> tuple[nn.Module, AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
    return model, AdamW(model.parameters(), lr=0.01)


def test_a_loaded_model_goes_on_as_if_it_had_never_stopped() -> None:
    from itop.methods import RigL

    options = {"sparsity": 0.6, "total_steps": 100}
    model, optimizer = make()
    engine = attach(model, optimizer, RigL(update_every=3), options)
    train(model, optimizer, range(7))
    weights, moments, state = (
        {name: value.clone() for name, value in model.state_dict().items()},
        deepcopy(optimizer.state_dict()),
        engine.state_dict(),
    )
    again, optimizer_again = make(1)
    again.load_state_dict(weights)
    optimizer_again.load_state_dict(moments)
    resumed = attach(again, optimizer_again, RigL(update_every=3), options, state)
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    train(model, optimizer, range(7, 14))
    train(again, optimizer_again, range(7, 14))
    assert resumed.topology.digest() == engine.topology.digest()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_optimiser_inside_of_wrappers_is_found() -> None:
    class Wrapper(Optimizer):
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    model, optimizer = make()
    assert innermost(Wrapper(Wrapper(optimizer))) is optimizer
    assert isinstance(attach(model, Wrapper(optimizer), "static", {"sparsity": 0.5}), SparseEngine)
