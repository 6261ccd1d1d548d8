"""Calls of ``optimizer.step`` that are no plain ones: a step within another, past the engine, or left by an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck, backward, batches, masks, small_mlp, train
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same


class Counting(AdamW):
    """As people subclass: torch calls hooks for this step and for the one inside it."""

    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        return super().step(closure)


class CountingTwice(Counting):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def engine_over(model: nn.Module, optimizer: Any, method: str = "rigl-itop", **options: Any) -> SparseEngine:
    return SparseEngine(model, optimizer, METHODS[method](update_every=3), sparsity=0.7, total_steps=100, **options)


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
def test_a_step_inside_the_step_of_a_subclass_is_one_step(method: str, with_closure: bool) -> None:
    AdamW([nn.Parameter(torch.zeros(1))])  # torch wraps the step of a class when the first of its kind is made
    results = []
    for kind in (AdamW, Counting, CountingTwice):
        model = small_mlp()
        optimizer = kind(model.parameters(), lr=0.01)
        engine = engine_over(model, optimizer, method)
        check, data = InvariantCheck(engine), batches()
        for _ in range(10):
            optimizer.zero_grad()
            if with_closure:
                optimizer.step(lambda: backward(model, next(data)))  # noqa: B023
            else:
                backward(model, next(data))
                optimizer.step()
            check()
        assert (engine.steps, engine.num_updates) == (10, 3)
        results.append((dict(model.state_dict()), masks(engine)))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_members_of_several_may_step_inside_their_steps_too() -> None:
    AdamW([nn.Parameter(torch.zeros(1))])
    model = small_mlp()
    members = [Counting(model[i].parameters(), lr=0.01) for i in (0, 2)]
    engine = engine_over(model, members)
    data = batches()
    for _ in range(9):
        model.zero_grad()
        backward(model, next(data))
        for member in members:
            member.step()
    assert (engine.steps, engine.num_updates) == (9, 3)


# --- past the engine ------------------------------------------------------------------------------------------------------


class SharpnessAware(Optimizer):
    """Climbs by the gradient, and steps by the gradient up there, in one call or in two that are no ``step``."""

    def __init__(self, params: Any, kind: type[Optimizer], **options: Any) -> None:
        super().__init__(params, dict(options))
        self.base_optimizer = kind(self.param_groups, **options)

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["before"] = parameter.clone()
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["before"])
        self.base_optimizer.step()

    def step(self, closure: Callable[[], Tensor]) -> None:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


def sharpness_aware(gives_base: bool) -> tuple[nn.Module, SharpnessAware, SparseEngine]:
    model = small_mlp()
    optimizer = SharpnessAware(model.parameters(), SGD, lr=0.05, momentum=0.9)
    return model, optimizer, engine_over(model, optimizer.base_optimizer if gives_base else optimizer)


@pytest.mark.parametrize("gives_base", [False, True])
def test_an_optimiser_that_evaluates_twice_in_a_step_is_kept_sparse(gives_base: bool) -> None:
    model, optimizer, engine = sharpness_aware(gives_base)
    check, data = InvariantCheck(engine), batches()
    for _ in range(9):
        batch = next(data)
        optimizer.zero_grad()
        optimizer.step(lambda: backward(model, batch))  # noqa: B023
        check()
    assert (engine.steps, engine.num_updates) == (9, 3)


def test_an_engine_over_what_steps_hears_of_every_step() -> None:
    model, optimizer, engine = sharpness_aware(gives_base=True)
    check, data = InvariantCheck(engine), batches()
    for _ in range(9):
        batch = next(data)
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.first_step()
        backward(model, batch)
        optimizer.second_step()
        check()
    assert (engine.steps, engine.num_updates) == (9, 3)


def test_steps_that_go_past_the_engine_are_refused_with_what_to_give_it() -> None:
    model, optimizer, engine = sharpness_aware(gives_base=False)
    backward(model, next(batches()))
    optimizer.base_optimizer.step()
    before = dict(model.state_dict())
    with pytest.raises(
        RuntimeError,
        match=r"^SharpnessAware lets the SGD that it wraps step without a step\(\) of its own, .*; give the engine the SGD$",
    ):
        optimizer.base_optimizer.step()
    assert_same(before, dict(model.state_dict()))
    engine.detach()
    optimizer.base_optimizer.step()


# --- left by an exception ---------------------------------------------------------------------------------------------------


class Left(BaseException):
    """Not an Exception: as an interrupt from the keyboard."""


@pytest.mark.parametrize("leaves", ["before_update", "on_update"])
@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_an_interrupt_in_an_update_leaves_a_sparse_network_that_trains_on(
    kind: type[Optimizer], method: str, leaves: str
) -> None:
    model = small_mlp()
    optimizer = kind(model.parameters(), lr=0.01)
    engine = engine_over(model, optimizer, method)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, 2, check)

    def leave(_: object) -> None:
        end()
        raise Left

    end = getattr(engine, leaves)(leave)
    with pytest.raises(Left):
        train(model, optimizer, data, 1)
    check()
    train(model, optimizer, data, 6, check)
    assert engine.num_updates >= 2


@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
def test_a_step_that_an_exception_left_is_forgotten_by_the_next(method: str) -> None:
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine = engine_over(model, optimizer, method)
    is_leaving = False

    def leave(*_: object) -> None:
        if is_leaving:
            raise Left

    optimizer.register_step_pre_hook(leave)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, 2, check)
    is_leaving = True
    with pytest.raises(Left):
        train(model, optimizer, data, 1)
    check()
    is_leaving = False
    assert engine.steps == 2
    for has_first in (False, True, True, True, True):
        optimizer.zero_grad()
        backward(model, next(data))
        if not has_first:
            model.get_parameter("0.weight").grad = None
        gradients = [parameter.grad for parameter in model.parameters()]
        optimizer.step()
        check()
        assert all(
            parameter.grad is gradient for parameter, gradient in zip(model.parameters(), gradients, strict=True)
        ), "the gradients of this step, not of the one that was left"
    assert engine.steps == 7
