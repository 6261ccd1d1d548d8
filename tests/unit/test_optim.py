"""The fused optimisers step as torch's do, on whatever they are given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck, backward, batches, small_convnet, small_mlp, train
from torch import nn

import itop
import itop.optim
from itop import SparseEngine
from itop.methods import METHODS

PAIRS: dict[str, tuple[type[torch.optim.Optimizer], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, itop.optim.SGD, {"lr": 0.05}),
    "momentum": (
        torch.optim.SGD,
        itop.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    ),
    "nesterov": (torch.optim.SGD, itop.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "maximize": (torch.optim.SGD, itop.optim.SGD, {"lr": 0.01, "momentum": 0.5, "maximize": True}),
    "fused": (torch.optim.SGD, itop.optim.SGD, {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "adam": (torch.optim.Adam, itop.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adam betas": (torch.optim.Adam, itop.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-4}),
    "adam maximize": (torch.optim.Adam, itop.optim.Adam, {"lr": 0.01, "maximize": True}),
    "amsgrad": (torch.optim.Adam, itop.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, itop.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("reference", "fused", "options"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("method", ["static", "set-itop", "rigl", None])
def test_a_fused_step_is_torchs_step_within_rounding(
    method: str | None,
    reference: type[torch.optim.Optimizer],
    fused: type[torch.optim.Optimizer],
    options: dict[str, Any],
    memory_format: torch.memory_format,
) -> None:
    weights = []
    for kind in (reference, fused):
        model = small_convnet().to(memory_format=memory_format)
        optimizer = kind(model.parameters(), **options)
        if method is not None:
            chosen = METHODS[method]() if method == "static" else METHODS[method](update_every=4)
            SparseEngine(model, optimizer, chosen, sparsity=0.6, total_steps=30)
        generator = torch.Generator().manual_seed(2)
        for _ in range(6):
            for p in model.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            optimizer.step()
        weights.append(model.state_dict())
    for name in weights[0]:
        # A few float32 roundings a step, in another order.
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", [itop.optim.SGD, itop.optim.AdamW])
def test_a_fused_step_gives_the_same_bits_for_any_number_of_threads(kind: type[torch.optim.Optimizer]) -> None:
    results = []
    for threads in (1, 2, 7):
        itop.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            model = nn.Linear(300, 400)
            optimizer = kind(model.parameters(), lr=0.01)  # type: ignore[call-arg]
            SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.9, total_steps=30)
            generator = torch.Generator().manual_seed(3)
            for _ in range(6):
                for p in model.parameters():
                    p.grad = torch.randn(p.shape, generator=generator)
                optimizer.step()
            results.append(model.weight.detach().clone())
        finally:
            itop.set_num_threads(2)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("kind", [itop.optim.SGD, itop.optim.AdamW])
def test_state_in_another_memory_order_than_the_weights_is_not_mixed_up(kind: Callable[..., Any]) -> None:
    options = {"lr": 0.01, **({"momentum": 0.9} if kind is itop.optim.SGD else {})}
    plain = small_convnet()
    optimizer = kind(plain.parameters(), **options)
    train(plain, optimizer, batches((4, 6, 6), 5), 2)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    resumed = kind(last.parameters(), **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, its in ((plain, optimizer), (last, resumed)):
        for p, source in zip(model.parameters(), plain.parameters(), strict=True):
            p.grad = source.grad.clone()  # type: ignore[union-attr]
        its.step()
    for (name, a), b in zip(plain.named_parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_a_parameter_with_gaps_in_memory_is_stepped_where_it_lies() -> None:
    storage = torch.ones(4, 10)
    parameter = nn.Parameter(storage[:, :5])
    optimizer = itop.optim.SGD([parameter], lr=1.0, momentum=0.9)
    parameter.grad = torch.ones(4, 5)
    optimizer.step()
    assert not storage[:, :5].any()
    assert torch.equal(storage[:, 5:], torch.ones(4, 5))


@pytest.mark.parametrize("kind", [itop.optim.SGD, itop.optim.Adam, itop.optim.AdamW])
def test_a_gradient_scaler_unscales_for_torchs_fused_step(kind: Callable[..., Any]) -> None:
    results = []
    for scaled in (False, True):
        model = small_mlp()
        optimizer = kind(model.parameters(), lr=0.1, fused=True)
        SparseEngine(model, optimizer, "static", sparsity=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        data = batches()
        for _ in range(3):
            optimizer.zero_grad()
            x, y = next(data)
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(model[0].weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])  # scaling by a power of two; eps differs in the last bits


def test_state_goes_to_torchs_own_optimiser_and_back() -> None:
    model = small_mlp()
    ours = itop.optim.AdamW(model.parameters(), 0.01)
    engine = SparseEngine(model, ours, "static", sparsity=0.5)
    train(model, ours, batches(), 3, InvariantCheck(engine))
    theirs = torch.optim.AdamW(model.parameters(), 0.01)
    theirs.load_state_dict(ours.state_dict())
    again = itop.optim.AdamW(model.parameters(), 0.01)
    again.load_state_dict(theirs.state_dict())
    for p in model.parameters():
        assert torch.equal(ours.state[p]["exp_avg"], again.state[p]["exp_avg"])
        assert ours.state[p]["step"] == again.state[p]["step"] == 3


def test_autograd_notices_that_a_fused_step_changed_the_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = itop.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(2, 4)).sum()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_an_engine_every_weight_is_stepped() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    optimizer = itop.optim.SGD(model.parameters(), lr=0.5)
    model.weight.grad = torch.ones(3, 3)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.5)


@pytest.mark.parametrize("kind", [itop.optim.SGD, itop.optim.Adam])
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(kind: Callable[..., Any]) -> None:
    model = small_mlp()
    optimizer = kind(model.parameters(), lr=0.1)
    data = batches()
    loss = optimizer.step(lambda: backward(model, next(data)))
    assert loss.item() > 0
    assert loss.requires_grad


def test_a_detached_engine_leaves_the_optimiser_a_plain_one() -> None:
    model = nn.Linear(4, 4)
    optimizer = itop.optim.SGD(model.parameters(), lr=0.5)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.5)
    engine.detach()
    model.weight.grad = torch.ones(4, 4)
    optimizer.step()
    assert model.weight.all(), "nothing masks any more"
