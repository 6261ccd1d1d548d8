"""What an update does, by hand; and that its counts are exact over thousands of updates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck, masks, small_mlp
from torch import Tensor, nn

import itop.optim
from itop import SparseEngine
from itop.allocation import Uniform
from itop.criteria import GradientGrowth, MagnitudeDrop, RandomGrowth, UnexploredFirst
from itop.methods import METHODS, DropAndGrow
from itop.schedules import ConstantDropFraction, CosineDropFraction, Every
from same_bits import assert_same


def one_layer(
    weights: Tensor, mask: Tensor, method: Any, kind: Any = torch.optim.SGD, **options: Any
) -> tuple[nn.Linear, torch.optim.Optimizer, SparseEngine]:
    """A layer with the weights and the mask of the test's choosing."""
    layer = nn.Linear(weights.shape[1], weights.shape[0], bias=True)
    optimizer = kind(layer.parameters(), **({"lr": 1.0} | options))
    engine = SparseEngine(layer, optimizer, method, sparsity=0.5, total_steps=10)
    topology = engine.topology
    topology.initialise(topology.from_tensors([mask]))
    with torch.no_grad():
        layer.weight.copy_(weights * mask)
    return layer, optimizer, engine


def test_rigl_drops_the_smallest_grows_the_largest_gradients_and_takes_no_step() -> None:
    weights = torch.tensor([[5.0, -1.0, 0.0, 0.0], [2.0, -4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False], [True, True, False, False]])
    method = METHODS["rigl"](update_every=2, drop_fraction=0.5)
    layer, optimizer, engine = one_layer(weights, mask, method, momentum=0.9, weight_decay=0.1)
    layer.weight.grad, layer.bias.grad = torch.zeros(2, 4), torch.zeros(2)
    optimizer.step()
    bias, kept = layer.bias.detach().clone(), layer.weight.detach().clone()
    momentum = optimizer.state[layer.weight]["momentum_buffer"].clone()
    gradient = torch.tensor([[9.0, 3.0, -8.0, 1.0], [9.0, 9.0, 2.0, 0.5]])
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones(2)
    optimizer.step()
    # P = 0.25 (1 + cos(2 pi / 7.5)) = 0.4172: of 4 weights, round(1.67) = 2 go: -1 and 2. Of the sites that were not
    # kept, the largest gradients are at (1, 0): 9, which was just dropped and keeps its value, and at (0, 2): 8.
    assert torch.equal(engine.mask("weight"), torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool())
    assert torch.equal(layer.weight.detach(), torch.where(engine.mask("weight"), kept, torch.zeros(2, 4)))
    assert layer.weight[1, 0] != 0
    assert layer.weight[0, 2] == 0
    assert torch.equal(layer.bias.detach(), bias)
    assert torch.equal(optimizer.state[layer.weight]["momentum_buffer"], momentum * engine.mask("weight"))
    assert torch.equal(layer.weight.grad, gradient), "the loop finds its gradients as it left them"
    report = engine.last_update
    assert report is not None
    (of_layer,) = report.layers
    assert (report.update, report.step) == (1, 2)
    assert report.drop_fraction == pytest.approx(0.25 * (1 + math.cos(2 * math.pi / 7.5)))
    assert (of_layer.dropped, of_layer.grown, of_layer.regrown, of_layer.churn) == (2, 2, 1, 2)
    assert (of_layer.num_active, of_layer.num_explored, of_layer.num_reliable) == (4, 5, 2)
    assert engine.steps == 2


def test_rigl_itop_updates_after_the_step_and_restarts_what_is_regrown() -> None:
    weights = torch.tensor([[5.0, -1.0, 0.0, 0.0], [2.0, -4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False], [True, True, False, False]])
    method = METHODS["rigl-itop"](update_every=1, drop_fraction=0.5, final_drop_fraction=0.5)
    layer, optimizer, engine = one_layer(weights, mask, method, momentum=0.9)
    layer.weight.grad = torch.tensor([[0.5, 0.25, -8.0, 1.0], [9.0, 0.5, 2.0, 0.5]])
    layer.bias.grad = torch.zeros(2)
    optimizer.step()
    # After the step of rate 1: 4.5, -1.25, -7, -4.5. The two smallest go, 4.5 or -4.5 being tied for the second place;
    # of the sites not kept the largest gradients are at (0, 2) and, tied with it, the other of the two (0.5) no more: 2.0.
    active = engine.mask("weight")
    assert not active[0, 1]
    assert active[1, 0]
    assert active[0, 2]
    assert active[1, 2]
    assert active.sum() == 4
    assert int(active[0, 0]) + int(active[1, 1]) == 1
    assert layer.weight[1, 0] == -7.0
    assert not layer.weight.detach()[0, 2]
    assert not layer.weight.detach()[1, 2]


@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
@pytest.mark.parametrize(("preset", "keeps"), [("rigl", True), ("rigl-itop", False)])
def test_a_weight_dropped_and_grown_at_once_follows_the_methods_rule(preset: str, keeps: bool, kind: Any) -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    # A third of three weights goes, the smallest, and its own gradient brings it back.
    layer, optimizer, engine = one_layer(
        weights, mask, METHODS[preset](update_every=2, drop_fraction=0.4), kind, momentum=0.9, lr=0.01
    )
    for _ in range(2):
        layer.weight.grad, layer.bias.grad = torch.tensor([[5.0, 0.0, 0.0, 1.0]]), torch.zeros(1)
        optimizer.step()
    report = engine.last_update
    assert report is not None
    assert (report.layers[0].dropped, report.layers[0].regrown) == (1, 1)
    assert torch.equal(engine.mask("weight"), mask)
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    if keeps:
        assert layer.weight[0, 0].item() == pytest.approx(0.95)
        assert momentum[0, 0] == 5.0
    else:
        assert layer.weight[0, 0] == 0.0
        assert momentum[0, 0] == 0.0


def test_set_drops_the_smallest_positive_and_the_largest_negative_separately() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0], [-5.0, -6.0, -7.0, -8.0, 0.0, 0.0]])
    mask = weights != 0
    layer, _optimizer, engine = one_layer(weights, mask, METHODS["set"](update_every=1, drop_fraction=0.5))
    before = torch.arange(12).view(2, 6)[mask].tolist()
    report = engine.update()
    assert report is not None
    assert report.dropped == report.grown == 4
    kept = layer.weight.detach()[layer.weight != 0].tolist()
    # Magnitude alone would have taken every positive weight.
    assert kept == pytest.approx([0.3, 0.4, -7.0, -8.0])
    assert len(before) == engine.layers[0].num_active == 8


def test_active_weights_that_are_exactly_zero_are_active_and_go_first() -> None:
    weights = torch.tensor([[0.0, 0.0, 3.0, 4.0]])
    mask = torch.tensor([[True, True, True, False]])
    method = DropAndGrow("by hand", Every(1), ConstantDropFraction(0.67), grow=RandomGrowth(), may_regrow=True)
    _layer, _optimizer, engine = one_layer(weights, mask, method)
    report = engine.update()
    assert report is not None
    assert report.layers[0].dropped == 2
    assert engine.layers[0].num_active == 3
    assert engine.mask("weight")[0, 2]


def test_zero_gradients_grow_inactive_sites_at_random_and_as_many_as_were_dropped() -> None:
    sites = []
    for seed in range(3):
        torch.manual_seed(0)
        model = nn.Linear(50, 40)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        method = METHODS["rigl-itop"](update_every=1)
        engine = SparseEngine(model, optimizer, method, sparsity=0.9, total_steps=100, seed=seed)
        check = InvariantCheck(engine)
        before = engine.mask("weight")
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        check()
        report = engine.last_update
        assert report is not None
        assert report.dropped == report.grown == round(200 * (0.005 + 0.495 / 2 * (1 + math.cos(math.pi / 100))))
        sites.append((engine.mask("weight") & ~before).nonzero().tolist())
    assert sites[0] != sites[1] != sites[2]
    rows = [row for of_run in sites for row, _ in of_run]
    assert min(rows) < 10 < 30 < max(rows), "not the first sites"


@pytest.mark.parametrize("drop_fraction", [0.0, 1.0])
def test_nothing_or_everything_may_be_dropped(drop_fraction: float) -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    method = DropAndGrow("all", Every(1), ConstantDropFraction(drop_fraction))
    engine = SparseEngine(model, optimizer, method, sparsity=0.5)
    check, before = InvariantCheck(engine), masks(engine)
    for _ in range(4):
        optimizer.step()
        check()
    if drop_fraction == 0.0:
        assert_same(before, masks(engine))
        assert engine.reliable_rate == engine.exploration_rate == engine.density
    else:
        assert engine.reliable_rate == 0.0
        assert not model[0].weight.any()


@pytest.mark.parametrize("values", ["ties", "zeros", "two values", "random"])
@pytest.mark.parametrize("grow", [RandomGrowth(), GradientGrowth(), UnexploredFirst(GradientGrowth())])
def test_counts_are_exact_over_a_thousand_updates_of_layers_of_1_to_70_weights(grow: Any, values: str) -> None:
    torch.manual_seed(0)
    sizes = [
        (1, 1),
        (1, 2),
        (3, 1),
        (1, 7),
        (3, 3),
        (1, 31),
        (4, 8),
        (3, 11),
        (9, 7),
        (8, 8),
        (5, 13),
        (1, 65),
        (7, 10),
    ]
    model = nn.ModuleList(nn.Linear(n, m, bias=False) for m, n in sizes)
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    method = DropAndGrow("parts", Every(1), CosineDropFraction(0.8, 0.1), MagnitudeDrop(), grow)
    engine = SparseEngine(model, optimizer, method, sparsity=0.6, total_steps=1000, allocation="uniform")
    counts = [layer.num_active for layer in engine.layers]
    check = InvariantCheck(engine)
    makers: dict[str, Any] = {
        "ties": torch.ones_like,
        "zeros": torch.zeros_like,
        "two values": lambda p: torch.randint(0, 2, p.shape).float(),
        "random": torch.randn_like,
    }
    make = makers[values]
    for step in range(1000):
        for p in model.parameters():
            p.grad = make(p)
            if step % 10 == 0:
                with torch.no_grad():
                    p.copy_(make(p))
        optimizer.step()
        if step % 20 == 0:
            check()
        assert [layer.num_active for layer in engine.layers] == counts
    check()
    assert engine.num_updates == 1000


def test_dense_layers_are_left_alone() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = SparseEngine(
        model,
        optimizer,
        METHODS["set-itop"](update_every=1),
        sparsity=0.5,
        allocation={"2.weight": 0.0},
        total_steps=10,
    )
    before = model[2].weight.detach().clone()
    for _ in range(5):
        optimizer.step()
    assert torch.equal(before, model[2].weight)
    assert engine.layers[1].density == engine.layers[1].exploration_rate == 1.0


def test_reliable_is_what_survived_a_round_and_explored_what_was_ever_active() -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]])
    layer, _optimizer, engine = one_layer(
        weights, weights != 0, METHODS["set-itop"](update_every=1, drop_fraction=0.5, final_drop_fraction=0.5)
    )
    explored = engine.mask("weight")
    reliable = torch.zeros_like(explored)
    for _ in range(6):
        before = engine.mask("weight")
        with torch.no_grad():
            layer.weight.copy_(torch.arange(1.0, 9.0) * before)
        smallest = before.nonzero()[:2]
        engine.update()
        survivors = before.clone()
        survivors[smallest[:, 0], smallest[:, 1]] = False
        explored |= engine.mask("weight")
        reliable |= survivors
        assert torch.equal(engine.topology.explored.to_tensor(0), explored)
        assert torch.equal(engine.topology.reliable.to_tensor(0), reliable)
        assert engine.exploration_rate == explored.sum() / 8
        assert engine.reliable_rate == reliable.sum() / 8


def test_unexplored_first_reaches_the_bound_of_any_growth() -> None:
    model = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    method = DropAndGrow("unexplored", Every(1), ConstantDropFraction(0.3), grow=UnexploredFirst())
    engine = SparseEngine(model, optimizer, method, sparsity=0.9)
    for i in range(1, 40):
        optimizer.step()
        assert engine.exploration_rate == pytest.approx(min(1.0, 0.1 * (1 + 0.3 * i)), abs=1e-12)
    assert engine.exploration_rate == 1.0


def test_unexplored_first_goes_by_the_wrapped_rule_among_each() -> None:
    weights = torch.tensor([[1.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    method = DropAndGrow(
        "unexplored", Every(1), ConstantDropFraction(1.0), grow=UnexploredFirst(GradientGrowth()), allocation=Uniform()
    )
    layer, _optimizer, engine = one_layer(weights, weights != 0, method)
    gradients = torch.tensor([[9.0, 8.0, 1.0, 3.0, 2.0, 4.0]])
    seen = []
    for _ in range(3):
        layer.weight.grad = gradients.clone()
        engine.update()
        seen.append(engine.mask("weight")[0].nonzero().flatten().tolist())
    assert seen == [[3, 5], [2, 4], [0, 1]]
