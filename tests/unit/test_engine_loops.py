"""The training loop stays as it was, whatever kind of loop it is."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from engine_checks import (
    InvariantCheck,
    assert_same,
    backward,
    batches,
    everything,
    hooks,
    masks,
    small_convnet,
    small_mlp,
    train,
)
from torch import nn

import itop.optim
from itop import SparseEngine
from itop.criteria import GradientGrowth
from itop.methods import METHODS, DropAndGrow
from itop.schedules import ConstantDropFraction, Every

SGD = {"lr": 0.05, "momentum": 0.9}


def sgd_engine(
    model: nn.Module, method: str = "set-itop", every: int = 3, **options: Any
) -> tuple[torch.optim.Optimizer, SparseEngine]:
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    options = {"sparsity": 0.7, "total_steps": 100, **options}
    return optimizer, SparseEngine(model, optimizer, METHODS[method](update_every=every), **options)


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


# --- gradients ----------------------------------------------------------------------------------------------------------


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


# --- scaled gradients ------------------------------------------------------------------------------------------------------


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


# --- other hands on weights ----------------------------------------------------------------------------------------------


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


# --- what else a loop may hold -----------------------------------------------------------------------------------------------


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


# --- without hooks, detached, twice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_a_loop_without_hooks_that_calls_step_gives_the_same_masks_and_weights(kind: Any, method: str) -> None:
    results = []
    for attach in (True, False):
        model = small_mlp()
        optimizer = kind(model.parameters(), **SGD)
        engine = SparseEngine(
            model, optimizer, METHODS[method](update_every=3), sparsity=0.6, total_steps=100, attach=attach
        )
        check = InvariantCheck(engine)
        data = batches()
        for _ in range(10):
            train(model, optimizer, data, 1)
            report = engine.step()
            assert report is engine.last_update
            check()
        assert (engine.steps, engine.num_updates) == (10, 3)
        results.append((dict(model.state_dict()), masks(engine)))
    assert_same(results[0], results[1])


def test_with_hooks_step_changes_nothing() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, every=1)
    train(model, optimizer, batches(), 3)
    before = everything(model, engine)
    assert engine.step() is engine.last_update
    assert_same(before, everything(model, engine))


def test_a_detached_model_keeps_its_zeros_and_no_hook() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    without = hooks(model, optimizer)
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=3), sparsity=0.7, total_steps=100)
    train(model, optimizer, batches(), 4)
    engine.detach()
    engine.detach()
    assert hooks(model, optimizer) == without
    assert not optimizer._optimizer_load_state_dict_post_hooks
    assert model[0].weight.detach()[~engine.mask("0.weight")].count_nonzero() == 0
    before = engine.state_dict()
    train(model, optimizer, batches(), 2)
    assert_same(before, engine.state_dict())


def test_an_engine_goes_when_it_was_detached() -> None:
    import weakref

    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    train(model, optimizer, batches(), 1)
    engine.detach()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_a_second_engine_on_the_same_layers_is_refused_until_the_first_is_detached() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    train(model, optimizer, batches(), 2)
    before = everything(model, engine)
    with pytest.raises(ValueError, match=r"already has a SparseEngine, for 0\.weight, 2\.weight; call its detach\(\)"):
        SparseEngine(model, optimizer, "static", sparsity=0.5)
    assert_same(before, everything(model, engine))
    engine.detach()
    second = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.9, total_steps=10, seed=1)
    train(model, optimizer, batches(), 4, InvariantCheck(second))
    assert engine.steps == 2


def test_two_engines_share_an_optimiser_where_their_layers_differ() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    options: dict[str, Any] = {"sparsity": 0.7, "total_steps": 100}
    first = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), include="0", **options)
    second = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=3), include="2", **options)
    checks = InvariantCheck(first), InvariantCheck(second)
    train(model, optimizer, batches(), 6, lambda: [check() for check in checks])
    assert (first.num_updates, second.num_updates) == (3, 2)


def test_callbacks_hear_every_update_until_they_are_ended() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, every=2)
    heard: list[Any] = []
    end = engine.on_update(heard.append)
    train(model, optimizer, batches(), 5)
    assert [(report.update, report.step) for report in heard] == [(1, 2), (2, 4)]
    assert heard[-1] is engine.last_update
    end()
    train(model, optimizer, batches(), 2)
    assert len(heard) == 2


# --- devices and formats ---------------------------------------------------------------------------------------------------


def test_a_model_that_changes_its_memory_format_under_the_engine_keeps_its_masks() -> None:
    results = []
    for moves in (False, True):
        model = small_convnet()
        optimizer, engine = sgd_engine(model, every=2, sparsity=0.6)
        check, data = InvariantCheck(engine), batches((4, 6, 6), 5)
        train(model, optimizer, data, 3, check)
        before = masks(engine)
        if moves:
            model.to(memory_format=torch.channels_last)
            engine.update()
            optimizer.zero_grad()
        else:
            engine.update()
        check()
        assert before.keys() == masks(engine).keys()
        results.append((masks(engine), engine.state_dict()["layers"]))
        train(model, optimizer, data, 4, check)
    assert_same(results[0], results[1])


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_model_that_becomes_double_under_the_engine_stays_sparse(steps_before: int) -> None:
    model = small_mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    engine = SparseEngine(model, optimizer, METHODS["rigl-itop"](update_every=2), sparsity=0.6, total_steps=50)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, steps_before, check)
    model.double()
    optimizer.load_state_dict(optimizer.state_dict())  # torch's way of casting state to the weights' type
    train(model, optimizer, data, 5, check)
    assert engine.num_updates == (steps_before + 5) // 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["set-itop", "rigl"])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "itop sgd", "itop adamw"])
def test_models_of_every_floating_type_are_kept_sparse(kind: str, method: str, dtype: torch.dtype) -> None:
    model = small_mlp().to(dtype)
    makers: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, **SGD),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, eps=1e-4),
        "itop sgd": lambda p: itop.optim.SGD(p, **SGD),
        "itop adamw": lambda p: itop.optim.AdamW(p, 0.01, eps=1e-4),
    }
    optimizer = makers[kind](model.parameters())
    engine = SparseEngine(model, optimizer, METHODS[method](update_every=2), sparsity=0.6, total_steps=50)
    train(model, optimizer, batches(), 7, InvariantCheck(engine))
    assert engine.num_updates == 3
    assert model[0].weight.dtype is dtype


@pytest.mark.parametrize("halves", ["before", "after"])
def test_an_epsilon_that_float16_rounds_to_zero_makes_no_nan_of_inactive_weights(halves: str) -> None:
    model = nn.Linear(40, 40)
    if halves == "before":
        model.half()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)  # eps 1e-8
    engine = SparseEngine(model, optimizer, "static", sparsity=0.5)
    model.half()
    check = InvariantCheck(engine)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        check()
    assert model.weight.isfinite().all()
