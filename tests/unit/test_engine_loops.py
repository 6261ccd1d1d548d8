"""The training loop stays as it was: values, schedulers, copies, averages, compiled models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_checks import SGD, InvariantCheck, batches, masks, sgd_engine, small_convnet, small_mlp, train

import itop.optim
from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same


@pytest.mark.parametrize("method", ["dense", "static", "set", "set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_attaching_keeps_the_values_of_active_weights_and_touches_nothing_else(kind: Any, method: str) -> None:
    model = small_convnet()
    optimizer = kind(model.parameters(), **SGD)
    train(model, optimizer, batches((4, 6, 6), 5), 2)
    before = copy.deepcopy(model.state_dict())
    momentum = {p: optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()}
    engine = SparseEngine(model, optimizer, method, sparsity=0.7, total_steps=100)
    sparse = {layer.name: layer for layer in engine.topology.layers}
    for name, value in model.state_dict().items():
        mask = engine.mask(name) if name in sparse else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value, torch.where(mask, before[name], torch.zeros_like(value))), name
        if name in sparse:
            parameter = sparse[name].parameter
            assert torch.equal(optimizer.state[parameter]["momentum_buffer"], momentum[parameter] * mask), name


def test_schedulers_made_before_and_after_the_engine_act_as_ever() -> None:
    rates = []
    for before_engine in (True, False, None):
        model = small_mlp()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        if before_engine:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
        if before_engine is not None:
            engine = SparseEngine(model, optimizer, METHODS["rigl"](update_every=3), sparsity=0.5, total_steps=12)
            check = InvariantCheck(engine)
        if not before_engine:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
        data, of_run = batches(), []
        for _ in range(10):
            train(model, optimizer, data, 1)
            scheduler.step()
            of_run.append(scheduler.get_last_lr())
            if before_engine is not None:
                check()
        rates.append(of_run)
    assert rates[0] == rates[1] == rates[2]


def test_a_copy_of_the_model_is_an_ordinary_model() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    early = copy.deepcopy(model)
    keys = list(model.state_dict())
    train(model, optimizer, batches(), 4)
    late = copy.deepcopy(model)
    assert list(late.state_dict()) == keys == list(small_mlp().state_dict())
    assert not late._forward_pre_hooks
    assert_same(dict(late.state_dict()), dict(model.state_dict()))
    x = next(batches())[0]
    early(x)
    before = engine.state_dict()
    other = torch.optim.SGD(late.parameters(), 0.1)
    train(late, other, batches(), 3)
    assert late[0].weight.detach()[~engine.mask("0.weight")].any(), "the copy trains densely"
    assert_same(before, engine.state_dict())


def test_averages_of_the_weights_can_be_kept_and_swapped_in() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    check, data = InvariantCheck(engine), batches()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(6):
        train(model, optimizer, data, 1, check)
        average.update_parameters(model)
    trained = copy.deepcopy(model.state_dict())
    model.load_state_dict(average.module.state_dict())
    with torch.no_grad():
        model(next(data)[0])
    model.load_state_dict(trained)
    train(model, optimizer, data, 3, check)
    assert average.module[0].weight.detach().count_nonzero() > engine.layers[0].num_active, "averages span updates"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("order", ["compiled first", "engine first"])
def test_compiled_models_train_like_plain_ones(order: str, backend: str) -> None:
    results = []
    for compiles in (False, True):
        torch.compiler.reset()
        model = small_mlp()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        called: Any = model
        if compiles and order == "compiled first":
            called = torch.compile(model, backend=backend)
        engine = SparseEngine(
            called, optimizer, METHODS["rigl-itop"](update_every=2), sparsity=0.7, total_steps=50, seed=4
        )
        if compiles and order == "engine first":
            called = torch.compile(model, backend=backend)
        assert [layer.name for layer in engine.layers] == ["0.weight", "2.weight"]
        train(called, optimizer, batches(), 6, InvariantCheck(engine))
        results.append((dict(model.state_dict()), masks(engine)))
        assert engine.flops(torch.zeros(1, 9)).forward_dense == 2 * (9 * 13 + 13 * 7)
    assert_same(results[0], results[1])


def test_a_compiled_model_is_not_compiled_again_when_its_masks_change() -> None:
    torch.compiler.reset()
    model = small_mlp()
    compilations = 0

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        nonlocal compilations
        compilations += 1
        return graph.forward

    called = torch.compile(model, backend=count)
    optimizer, engine = sgd_engine(model, every=1)
    train(called, optimizer, batches(), 2)
    first = compilations
    train(called, optimizer, batches(), 6)
    assert engine.num_updates == 8
    assert compilations == first
