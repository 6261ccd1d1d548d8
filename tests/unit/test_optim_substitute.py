"""A plain SGD on the CPU has the step of its sparse layers taken for it, and nobody can tell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck, backward, batches, small_convnet, small_mlp, train
from torch import Tensor, nn
from torch.optim import SGD

from itop import SparseEngine
from itop.methods import METHODS
from itop.optim import substitute

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.05},
    "momentum": {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    "nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "maximize": {"lr": 0.01, "momentum": 0.5, "maximize": True},
}
OWN_WAY = {"foreach": True}  # torch's steps over lists of tensors are left to torch

needs_multiply_add = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch rounds products that it adds on this processor"
)


def engine_over(model: nn.Module, optimizer: SGD, method: str) -> SparseEngine:
    chosen = METHODS[method]() if method == "static" else METHODS[method](update_every=3)
    return SparseEngine(model, optimizer, chosen, sparsity=0.6, total_steps=40)


def everything(model: nn.Module, optimizer: SGD, engine: SparseEngine) -> list[Tensor]:
    momentum = [value for p in model.parameters() for value in optimizer.state[p].values() if value is not None]
    return [*model.state_dict().values(), *momentum, *(engine.mask(layer.name) for layer in engine.layers)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters were stepped in torch's stead, step by step."""
    counts: list[int] = []
    original = substitute.step_sparse_layers

    def counted(*args: Any) -> list[Tensor]:
        parameters = original(*args)
        counts.append(len(parameters))
        return parameters

    monkeypatch.setattr("itop.stepper.step_sparse_layers", counted)
    return counts


@needs_multiply_add
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("method", ["static", "set-itop", "rigl", "snfs", "gmp"])
def test_the_bits_are_those_of_torchs_step_with_masked_gradients(
    method: str, options: dict[str, Any], memory_format: torch.memory_format, taken: list[int]
) -> None:
    outcomes = []
    for way in ({}, OWN_WAY):
        model = small_convnet().to(memory_format=memory_format)
        optimizer = SGD(model.parameters(), **options, **way)
        engine = engine_over(model, optimizer, method)
        train(model, optimizer, batches((4, 6, 6), classes=5), 14)
        outcomes.append(everything(model, optimizer, engine))
    assert taken == [5] * (10 if method == "rigl" else 14), "of the layers' weights, where a step is no update"
    assert len(outcomes[0]) == len(outcomes[1])
    assert all(map(torch.equal, *outcomes))


def test_gradients_are_there_again_after_the_step_and_dense(taken: list[int]) -> None:
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine_over(model, optimizer, "set")
    backward(model, next(batches()))
    before = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    assert len(before) == 4
    optimizer.step()
    assert taken == [2]
    for name, p in model.named_parameters():
        held, copied = before[name]
        assert p.grad is held
        assert torch.equal(held, copied)


@pytest.mark.parametrize("place", ["before the step", "after the step"])
def test_a_hook_that_comes_between_sees_every_gradient(place: str, taken: list[int]) -> None:
    """Torch steps then: a hook may change the gradients that the step is to use."""
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen: list[int] = []

    def look(*_: Any) -> None:
        seen.append(sum(p.grad is not None for p in model.parameters()))

    if place == "after the step":
        optimizer.register_step_post_hook(look)
    engine = engine_over(model, optimizer, "set")
    if place == "before the step":
        optimizer.register_step_pre_hook(look)
    train(model, optimizer, batches(), 4, InvariantCheck(engine))
    assert seen == [4] * 4
    assert not taken


def _double(model: nn.Module) -> None:
    model.double()


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"foreach": True}, None),
        ({"fused": True}, None),
        ({"lr": torch.tensor(0.05)}, None),
        ({}, _double),
    ],
)
def test_what_the_native_step_cannot_give_bit_for_bit_is_left_to_torch(
    options: dict[str, Any], change: Callable[[nn.Module], None] | None, taken: list[int]
) -> None:
    model = small_mlp()
    if change is not None:
        change(model)
    optimizer = SGD(model.parameters(), **{"lr": 0.05, **options})
    engine = engine_over(model, optimizer, "set")
    train(model, optimizer, batches(), 4, InvariantCheck(engine))
    assert not taken


def test_a_subclass_steps_by_itself(taken: list[int]) -> None:
    class Scaled(SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mul_(0.5)
            return super().step(closure)

    model = small_mlp()
    optimizer = Scaled(model.parameters(), lr=0.05)
    engine = engine_over(model, optimizer, "set")
    train(model, optimizer, batches(), 4, InvariantCheck(engine))
    assert not taken


def test_closures_step_by_torch_and_plain_calls_go_on_natively(taken: list[int]) -> None:
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine = engine_over(model, optimizer, "rigl")
    check, data = InvariantCheck(engine), batches()
    for _ in range(4):
        optimizer.zero_grad()
        optimizer.step(lambda: backward(model, next(data)))
        check()
        train(model, optimizer, data, 1, check)
    assert taken == [2] * 3, "every third step is an update"


def test_layers_without_a_gradient_stay_as_they_are(taken: list[int]) -> None:
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine_over(model, optimizer, "static")
    before = copy.deepcopy(model.state_dict())
    weight = model.get_parameter("0.weight")
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert taken == [2]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"}
    assert list(optimizer.state) == [weight]
