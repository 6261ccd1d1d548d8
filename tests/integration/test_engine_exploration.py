"""Exploration of runs through the engine follows the theory of PAPER section 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from itop import SparseEngine
from itop.analysis.exploration import (
    UpdatePlan,
    closed_form_exploration,
    cosine_drop_fraction,
    expected_exploration,
    exploration_bound,
)
from itop.analysis.layer import Layer
from itop.criteria import GradientGrowth, UnexploredFirst
from itop.methods import METHODS, DropAndGrow
from itop.schedules import CosineDropFraction, Every

TOTAL_STEPS = 60


def run(method: DropAndGrow, seed: int, gradients: bool = False) -> tuple[SparseEngine, list[Layer], list[float]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(120, 90, bias=False), nn.Conv2d(20, 30, 3), nn.Linear(40, 10, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    engine = SparseEngine(model, optimizer, method, sparsity=0.9, total_steps=TOTAL_STEPS, seed=seed)
    layers = [Layer(layer.name, layer.shape, layer.density) for layer in engine.layers]
    rates = [engine.exploration_rate]
    engine.on_update(lambda report: rates.append(engine.exploration_rate))
    for _ in range(TOTAL_STEPS):
        if gradients:
            for p in model.parameters():
                p.grad = torch.randn_like(p)
        optimizer.step()
    return engine, layers, rates


def plan(every: int) -> UpdatePlan:
    return UpdatePlan.every(every, TOTAL_STEPS, cosine_drop_fraction(0.5, 0.005, TOTAL_STEPS))


def test_random_growth_follows_the_closed_form_within_its_monte_carlo_error() -> None:
    runs = [run(METHODS["set-itop"](update_every=3), seed) for seed in range(12)]  # type: ignore[arg-type]
    layers = runs[0][1]
    expected = expected_exploration(layers, plan(3))
    for i in (1, 5, 10, 20):
        mean = sum(rates[i] for *_, rates in runs) / len(runs)
        # Four standard errors of the mean: one false alarm in 16,000.
        assert abs(mean - expected.rate[i]) < 4 * expected.standard_error[i] / len(runs) ** 0.5
    for layer in layers:
        of_layer = [next(x for x in engine.layers if x.name == layer.name).exploration_rate for engine, *_ in runs]
        tolerance = 4 * float(expected.layer_standard_errors[layer.name][-1]) / len(runs) ** 0.5
        assert sum(of_layer) / len(runs) == pytest.approx(
            float(expected.layer_rates[layer.name][-1]), abs=tolerance + 1e-12
        )
    # Whole numbers of weights move the closed form by less than a thousandth.
    assert closed_form_exploration(layers, plan(3)).final_rate == pytest.approx(expected.final_rate, abs=1e-3)


def test_one_run_stays_within_its_own_spread() -> None:
    engine, layers, rates = run(METHODS["set-itop"](update_every=2), 77)  # type: ignore[arg-type]
    expected = expected_exploration(layers, plan(2))
    assert abs(rates[-1] - expected.final_rate) < 5 * expected.monte_carlo_error()
    assert rates[-1] == engine.exploration_rate


def test_unexplored_first_growth_reaches_the_bound_and_nothing_exceeds_it() -> None:
    every, fraction = 6, CosineDropFraction(0.5, 0.005)
    bound = None
    for grow in (UnexploredFirst(), UnexploredFirst(GradientGrowth()), GradientGrowth()):
        method = DropAndGrow("under test", Every(every), fraction, grow=grow)
        _engine, layers, rates = run(method, 3, gradients=True)
        bound = exploration_bound(layers, plan(every)).final_rate
        # Rounding moves each layer by half a weight an update.
        slack = 0.5 * len(rates) * len(layers) / sum(layer.numel for layer in layers)
        assert rates[-1] <= bound + slack
        if isinstance(grow, UnexploredFirst):
            assert rates[-1] >= bound - slack
    assert bound is not None


def test_random_growth_explores_more_than_growth_by_a_gradient_that_does_not_change() -> None:
    engines = {}
    for preset in ("set-itop", "rigl-itop"):
        torch.manual_seed(0)
        model = nn.Linear(100, 100, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), 1e-4)
        engine = SparseEngine(model, optimizer, METHODS[preset](update_every=2), sparsity=0.9, total_steps=60)
        gradient = torch.randn(100, 100)
        for _ in range(60):
            model.weight.grad = gradient.clone()
            optimizer.step()
        engines[preset] = engine
    assert engines["set-itop"].exploration_rate > 2 * engines["rigl-itop"].exploration_rate
    for engine in engines.values():
        assert engine.reliable_rate <= engine.exploration_rate
