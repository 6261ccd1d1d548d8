"""Which gradients the engine masks, which it looks at, and which it leaves alone: cleared, missing, scaled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_checks import SGD, InvariantCheck, backward, batches, everything, masks, sgd_engine, small_mlp, train
from torch import nn

import itop.optim
from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same


@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_gradients_may_be_cleared_either_way(method: str, set_to_none: bool) -> None:
    weights = []
    for to_none in (True, set_to_none):
        model = small_mlp()
        optimizer, engine = sgd_engine(model, method)
        check, data = InvariantCheck(engine), batches()
        for _ in range(10):
            optimizer.zero_grad(set_to_none=to_none)
            backward(model, next(data))
            optimizer.step()
            check()
        assert engine.num_updates == 3
        weights.append(model.state_dict())
    assert_same(dict(weights[0]), dict(weights[1]))


def test_growth_looks_at_the_gradient_accumulated_over_the_whole_step() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, "rigl", every=1)
    data = batches()
    for _ in range(3):
        backward(model, next(data))
    dense = {layer.name: layer.parameter.grad.abs() for layer in engine.topology.layers}  # type: ignore[union-attr]
    before = masks(engine)
    optimizer.step()
    report = engine.last_update
    assert report is not None
    for layer in engine.layers:
        mask, kept = engine.mask(layer.name), engine.mask(layer.name) & before[layer.name]
        grown = mask & ~before[layer.name]
        worst_grown = dense[layer.name][grown].min()
        assert worst_grown >= dense[layer.name][~mask & ~before[layer.name]].max(), "the largest gradients are grown"
        assert kept.sum() == before[layer.name].sum() - report[layer.name].dropped + report[layer.name].regrown


@pytest.mark.parametrize("method", ["static", "set", "set-itop"])
def test_steps_without_any_gradient_change_nothing_but_the_topology(method: str) -> None:
    model = small_mlp()
    chosen = METHODS[method]() if method == "static" else METHODS[method](update_every=2)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    engine = SparseEngine(model, optimizer, chosen, sparsity=0.5, total_steps=100)
    check = InvariantCheck(engine)
    for _ in range(7):
        optimizer.step()
        check()
    assert engine.steps == 7
    assert engine.num_updates == (0 if method == "static" else 3)


def test_growth_by_gradient_without_any_gradient_is_an_error_that_says_what_to_do() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, "rigl-itop", every=1)
    before = everything(model, engine)
    with pytest.raises(
        RuntimeError, match=r"growth by gradient needs gradients, but no sparse layer has one; .*backward"
    ):
        engine.update()
    assert_same(before, everything(model, engine))
    with pytest.raises(RuntimeError, match="needs gradients"):
        optimizer.step()
    assert engine.num_updates == 0
    assert engine.last_update is None


@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_a_layer_that_took_no_part_in_a_step_has_a_zero_gradient(method: str, kind: Any) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.last = nn.Linear(9, 20), nn.Linear(20, 20), nn.Linear(20, 7)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            x = self.first(x).relu()
            return self.last(self.block(x) if self.calls % 2 else x)

    torch.manual_seed(0)
    model = Skipping()
    optimizer = kind(model.parameters(), **SGD)
    engine = SparseEngine(model, optimizer, METHODS[method](update_every=1), sparsity=0.7, total_steps=100)
    train(model, optimizer, batches(), 12, InvariantCheck(engine))
    assert engine.num_updates == 12


@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
@pytest.mark.parametrize("foreach", [False, True])
def test_an_update_by_gradient_before_the_step_grows_the_largest_and_after_it_may_be_refused(
    kind: Any, foreach: bool
) -> None:
    model = small_mlp()
    optimizer = kind(model.parameters(), foreach=foreach, **SGD)
    engine = SparseEngine(model, optimizer, METHODS["rigl-itop"](update_every=1000), sparsity=0.7, total_steps=2000)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, 2)
    if kind is torch.optim.SGD and foreach:  # a native step leaves gradients as they are
        before = everything(model, engine)
        with pytest.raises(
            RuntimeError, match=r"step\(\) has masked those at hand; call update\(\) after backward\(\)"
        ):
            engine.update()
        assert_same(before, everything(model, engine))
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none=set_to_none)
        backward(model, next(data))
        active = masks(engine)
        gradients = {x.name: x.parameter.grad.abs().clone() for x in engine.topology.layers}  # type: ignore[union-attr]
        report = engine.update()
        assert report is not None
        assert report.grown > 0
        for name, mask in masks(engine).items():
            grown, passed_over = mask & ~active[name], ~mask & ~active[name]
            assert gradients[name][grown].min() >= gradients[name][passed_over].max()
        optimizer.step()
        check()


def test_gradients_in_another_memory_order_are_masked_and_compared_by_place() -> None:
    model = nn.Linear(12, 12, bias=False)
    optimizer, engine = sgd_engine(model, "rigl", every=2, sparsity=0.5)
    check = InvariantCheck(engine)
    for step in range(1, 5):
        gradient = torch.randn(12, 12)
        model.weight.grad = gradient.clone().t().contiguous().t()
        active = engine.mask("weight")
        optimizer.step()
        check()
        if step % 2 == 0:
            grown, passed_over = engine.mask("weight") & ~active, ~engine.mask("weight") & ~active
            assert gradient.abs()[grown].min() >= gradient.abs()[passed_over].max()


@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, **SGD),
        lambda p: torch.optim.SGD(p, fused=True, **SGD),
        lambda p: torch.optim.AdamW(p, 0.01, fused=True),
        lambda p: itop.optim.AdamW(p, 0.01),
        lambda p: itop.optim.AdamW(p, 0.01, fused=True),
    ],
    ids=["sgd", "sgd fused", "adamw fused", "itop adamw", "itop adamw fused"],
)
def test_a_step_that_the_gradient_scaler_skips_is_skipped_by_the_engine(make: Any, method: str) -> None:
    model = small_mlp()
    optimizer = make(model.parameters())
    engine = SparseEngine(model, optimizer, METHODS[method](update_every=2), sparsity=0.6, total_steps=100)
    check, data = InvariantCheck(engine), batches()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    taken = 0
    for step in range(12):
        optimizer.zero_grad()
        x, y = next(data)
        overflows = step in (1, 2, 6)
        loss = nn.functional.cross_entropy(model(x), y) * (float("inf") if overflows else 1.0)
        scaler.scale(loss).backward()
        before = (copy.deepcopy(model.state_dict()), engine.state_dict())
        scaler.step(optimizer)
        scaler.update()
        taken += not overflows
        assert engine.steps == taken
        if overflows:
            assert_same(before[0], model.state_dict())
            assert_same(before[1], engine.state_dict())
        check()
    assert engine.num_updates == taken // 2
