"""Models that change their type or memory format, and models of every floating type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_checks import SGD, InvariantCheck, batches, masks, sgd_engine, small_convnet, small_mlp, train
from torch import nn

import itop.optim
from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same


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


def test_masks_and_states_are_right_between_a_move_and_the_next_step() -> None:
    """What is asked of an engine after ``model.to(...)``, before any step has noticed: a whole state, and another one loaded."""
    model = small_convnet()
    optimizer, engine = sgd_engine(model, every=2, sparsity=0.6)
    train(model, optimizer, batches((4, 6, 6), 5), 5, InvariantCheck(engine))
    before, saved = masks(engine), engine.state_dict()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    assert_same(masks(engine), before)
    assert_same(engine.state_dict()["layers"], saved["layers"])

    other = small_convnet()
    other_optimizer, other_engine = sgd_engine(other, every=2, sparsity=0.6)
    other.to(memory_format=torch.channels_last)
    other.load_state_dict(values)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other_engine.load_state_dict(saved)
    assert_same(masks(other_engine), before)
    assert_same(dict(other.state_dict()), values)
    for one, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        train(one, its_optimizer, batches((4, 6, 6), 5), 4)
    assert_same(masks(other_engine), masks(engine))
