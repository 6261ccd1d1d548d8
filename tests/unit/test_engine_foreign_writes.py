"""What others write to weights and to the optimiser's state under an engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_checks import (
    InvariantCheck,
    batches,
    sgd_engine,
    small_mlp,
    train,
)
from torch import nn

import itop.optim
from itop import SparseEngine
from itop.criteria import GradientGrowth
from itop.methods import METHODS, DropAndGrow
from itop.schedules import ConstantDropFraction, Every


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, itop.optim.SGD, itop.optim.AdamW])
@pytest.mark.parametrize(
    "write",
    [
        lambda model: model.load_state_dict({k: torch.randn_like(v) for k, v in model.state_dict().items()}),
        lambda model: [nn.init.normal_(p) for p in model.parameters()],
        lambda model: [p.data.normal_() for p in model.parameters()],
        lambda model: [setattr(p, "data", torch.randn_like(p)) for p in model.parameters()],
        lambda model: model[0].weight.data.view(-1).__setitem__(slice(None), 3.0),
        lambda model: torch.nn.utils.vector_to_parameters(torch.ones(13 * 10 + 7 * 14), model.parameters()),
    ],
    ids=["load_state_dict", "in place", "data in place", "data rebound", "part of data", "vector_to_parameters"],
)
def test_values_that_others_write_to_inactive_weights_are_gone_after_the_next_step(kind: Any, write: Any) -> None:
    model = small_mlp()
    optimizer = kind(model.parameters(), lr=0.01)
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=3), sparsity=0.7, total_steps=100)
    check, data = InvariantCheck(engine), batches()
    for _ in range(4):
        train(model, optimizer, data, 1, check)
        write(model)
        assert model[0].weight.detach()[~engine.mask("0.weight")].any()
        train(model, optimizer, data, 1, check)


def test_writes_that_leave_no_trace_are_swept_up_in_large_models_after_some_steps() -> None:
    model = nn.Sequential(nn.Linear(600, 600, bias=False), nn.Linear(600, 600, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.9, allocation="uniform")
    optimizer.step()
    for layer in engine.topology.layers:
        layer.parameter.data.fill_(1.0)
    for _ in range(4):
        optimizer.step()
    for layer in engine.topology.layers:
        assert not layer.parameter.detach()[~engine.mask(layer.name)].any()


@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_in_place_writes_to_large_layers_are_gone_after_the_very_next_step(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(600, 600, bias=False), nn.Linear(600, 600, bias=False))
    optimizer = kind(model.parameters(), lr=0.01)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.9, allocation="uniform")
    for layer in engine.topology.layers:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with torch.no_grad():
            layer.parameter.fill_(1.0)
        optimizer.step()
        assert not layer.parameter.detach()[~engine.mask(layer.name)].any()


@pytest.mark.parametrize("keeps", [False, True])
def test_state_in_another_memory_order_follows_the_rule_for_regrown_weights(keeps: bool) -> None:
    model = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    method = DropAndGrow(
        "by gradient", Every(2), ConstantDropFraction(0.5), grow=GradientGrowth(), regrown_keeps_value=keeps
    )
    engine = SparseEngine(model, optimizer, method, sparsity=0.5)
    check = InvariantCheck(engine)
    optimizer.state[model.weight]["momentum_buffer"] = torch.ones(6, 4, 3, 3)
    for _ in range(2):
        active = engine.mask("weight")
        # The gradient is largest where weights are active: what is dropped comes back.
        model.weight.grad = torch.where(active, 2.0, 1.0).to(memory_format=torch.channels_last)
        optimizer.step()
        check()
    report = engine.last_update
    assert report is not None
    assert report.layers[0].regrown == report.dropped == 54
    assert torch.equal(engine.mask("weight"), active)
    momentum = optimizer.state[model.weight]["momentum_buffer"]
    assert momentum.is_contiguous()
    assert momentum.count_nonzero() == (108 if keeps else 54)


def test_a_loaded_optimiser_state_is_masked_at_the_next_step() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, 2, check)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["momentum_buffer"] = torch.ones_like(state["momentum_buffer"])
    optimizer.load_state_dict(saved)
    train(model, optimizer, data, 1, check)
