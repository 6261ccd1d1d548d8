"""Model, optimiser and engine are loaded in any order, before or after the engine is made: nothing is lost."""

from __future__ import annotations

from copy import deepcopy
from itertools import permutations
from typing import Any

import pytest
import torch
from engine_checks import batches, small_convnet, small_mlp, train
from torch import nn
from torch.optim import Optimizer

from itop import SparseEngine
from itop.methods import METHODS
from itop.nn import sparsify
from same_bits import assert_same

ORDERS = [
    order
    for order in permutations(("model", "optimiser", "make the engine", "engine"))
    if order.index("make the engine") < order.index("engine")
]


def make_model(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "masked":
        return small_convnet()
    model = small_mlp()
    masks = {name: torch.rand(p.shape) < 0.3 for name, p in model.named_parameters() if p.dim() > 1}
    sparsify(model, masks, memory_demands_it=True)
    return model


def make_engine(model: nn.Module, optimizer: Optimizer, method: str) -> SparseEngine:
    return SparseEngine(model, optimizer, METHODS[method](update_every=3), sparsity=0.7, total_steps=30, seed=5)


def data_of(kind: str) -> Any:
    return batches((4, 6, 6), 5) if kind == "masked" else batches()


@pytest.fixture(
    scope="module", params=[("masked", "rigl-itop"), ("masked", "gmp"), ("truly sparse", "set-itop")], ids=str
)
def stopped(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A run, what it saved after 8 steps, and how it ended after 13."""
    kind, method = request.param
    model = make_model(kind, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    engine = make_engine(model, optimizer, method)
    data = data_of(kind)
    train(model, optimizer, data, 8)
    saved = deepcopy({"model": model.state_dict(), "optimiser": optimizer.state_dict(), "engine": engine.state_dict()})
    train(model, optimizer, data, 5)
    assert engine.num_updates >= 3
    return {"kind": kind, "method": method, "saved": saved, "model": model, "optimizer": optimizer, "engine": engine}


@pytest.mark.parametrize("order", ORDERS, ids=" - ".join)
def test_every_order_of_loading_continues_the_run(stopped: dict[str, Any], order: tuple[str, ...]) -> None:
    kind, saved = stopped["kind"], stopped["saved"]
    model = make_model(kind, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    parts: dict[str, Any] = {"model": model, "optimiser": optimizer}
    for action in order:
        if action == "make the engine":
            parts["engine"] = make_engine(model, optimizer, stopped["method"])
        else:
            parts[action].load_state_dict(deepcopy(saved[action]))
    data = data_of(kind)
    for _ in range(8):
        next(data)
    train(model, optimizer, data, 5)
    assert_same(dict(stopped["model"].state_dict()), dict(model.state_dict()))
    assert_same(stopped["optimizer"].state_dict()["state"], optimizer.state_dict()["state"])
    assert_same(stopped["engine"].state_dict(), parts["engine"].state_dict())
