"""For any model, optimiser and method: exact counts, exact zeros, growing sets, and the update written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import itop.optim
from itop import SparseEngine
from itop.criteria import GradientGrowth, MagnitudeDrop, RandomGrowth, SignedMagnitudeDrop, UnexploredFirst
from itop.methods import DropAndGrow, UpdateTiming
from itop.schedules import ConstantDropFraction, CosineDropFraction, Every

shapes = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 8)), min_size=1, max_size=4)
methods = st.builds(
    DropAndGrow,
    label=st.just("drawn"),
    update_schedule=st.builds(Every, st.integers(1, 3)),
    drop_fraction=st.one_of(st.builds(ConstantDropFraction, st.floats(0, 1)), st.just(CosineDropFraction(0.5, 0.005))),
    drop=st.sampled_from([MagnitudeDrop(), SignedMagnitudeDrop()]),
    grow=st.sampled_from([RandomGrowth(), GradientGrowth(), UnexploredFirst(), UnexploredFirst(GradientGrowth())]),
    update_timing=st.sampled_from(list(UpdateTiming)),
    regrown_keeps_value=st.booleans(),
)
optimizers: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, 0.1),
    "itop sgd": lambda p: itop.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "itop adamw": lambda p: itop.optim.AdamW(p, 0.01),
}
levels = st.integers(1, 4)  # how many different values there are: few make ties

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def values(p: torch.Tensor, levels: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-levels, levels + 1, p.shape, generator=generator).to(p.dtype) / levels


@quick
@given(
    shapes=shapes,
    method=methods,
    kind=st.sampled_from(sorted(optimizers)),
    sparsity=st.floats(0, 0.99),
    allocation=st.sampled_from(["erk", "er", "uniform"]),
    levels=levels,
    seed=st.integers(0, 2**64 - 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_counts_and_zeros_are_exact_whatever_the_run(
    shapes: list[tuple[int, int]],
    method: DropAndGrow,
    kind: str,
    sparsity: float,
    allocation: str,
    levels: int,
    seed: int,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**63)
    model = nn.ModuleList(nn.Linear(n, m) for n, m in shapes).to(dtype)
    optimizer = optimizers[kind](model.parameters())
    engine = SparseEngine(model, optimizer, method, sparsity=sparsity, allocation=allocation, total_steps=12, seed=seed)
    counts = [layer.num_active for layer in engine.layers]
    explored = engine.topology.active.to_tensors()
    reliable = engine.topology.reliable.to_tensors()
    for _ in range(8):
        for p in model.parameters():
            p.grad = values(p, levels, generator)
        optimizer.step()
        for i, layer in enumerate(engine.topology.layers):
            mask = engine.mask(layer.name)
            assert int(mask.sum()) == counts[i] == engine.layers[i].num_active
            assert not layer.parameter.detach()[~mask].any()
            for state in optimizer.state[layer.parameter].values():
                if torch.is_tensor(state) and state.shape == mask.shape:
                    assert not state[~mask].any()
            now_explored = engine.topology.explored.to_tensor(i)
            now_reliable = engine.topology.reliable.to_tensor(i)
            assert torch.equal(now_explored, now_explored | explored[i] | mask | now_reliable)
            assert torch.equal(now_reliable, now_reliable | reliable[i])
            explored[i], reliable[i] = now_explored, now_reliable


@quick
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 8)),
    sparsity=st.floats(0.05, 0.95),
    fraction=st.floats(0, 1),
    may_regrow=st.booleans(),
    keeps=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_an_update_without_ties_is_the_one_written_out_in_numpy(
    shape: tuple[int, int], sparsity: float, fraction: float, may_regrow: bool, keeps: bool, signed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    layer = nn.Linear(*shape, bias=False)
    numel = layer.weight.numel()
    weights = (rng.permutation(numel) + 1).reshape(layer.weight.shape) * rng.choice([-1.0, 1.0], layer.weight.shape)
    gradients = (rng.permutation(numel) + 1).reshape(layer.weight.shape) * rng.choice([-1.0, 1.0], layer.weight.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
    method = DropAndGrow(
        "reference",
        Every(1000),
        ConstantDropFraction(fraction),
        SignedMagnitudeDrop() if signed else MagnitudeDrop(),
        GradientGrowth(),
        may_regrow=may_regrow,
        regrown_keeps_value=keeps,
    )
    engine = SparseEngine(layer, torch.optim.SGD(layer.parameters(), 0.1), method, sparsity=sparsity, seed=seed)
    active = engine.mask("weight").numpy()
    weights = np.where(active, weights, 0.0)
    assert np.array_equal(layer.weight.detach().numpy(), weights.astype(np.float32))
    layer.weight.grad = torch.from_numpy(gradients).float()
    report = engine.update()
    assert report is not None

    dropped = np.zeros_like(active)
    if not active.all():
        sides = [active & (weights >= 0), active & (weights < 0)] if signed else [active]
        for side in sides:
            places = np.flatnonzero(side)
            order = places[np.argsort(np.abs(weights).ravel()[places])]
            dropped.ravel()[order[: round(fraction * len(places))]] = True
    kept = active & ~dropped
    candidates = np.flatnonzero(~kept)
    just_dropped = active.ravel()[candidates] & (not may_regrow)  # come last
    best = candidates[np.lexsort((-np.abs(gradients).ravel()[candidates], just_dropped))][: dropped.sum()]
    grown = np.zeros_like(active)
    grown.ravel()[best] = True
    assert np.array_equal(engine.mask("weight").numpy(), kept | grown)
    survives = kept | (dropped & grown) if keeps else kept
    assert np.array_equal(layer.weight.detach().numpy(), np.where(survives, weights, 0.0).astype(np.float32))
    (of_layer,) = report.layers
    assert (of_layer.dropped, of_layer.grown, of_layer.regrown) == (dropped.sum(), grown.sum(), (dropped & grown).sum())
    assert (of_layer.num_explored, of_layer.num_reliable) == ((active | grown).sum(), kept.sum())
