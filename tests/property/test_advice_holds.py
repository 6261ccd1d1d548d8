"""What `itop advise` predicts is what an engine then explores, in any setting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from itop import SparseEngine
from itop.allocation import LayerShape, as_allocation
from itop.analysis import Advice, DropFractionChoice, Layer, Refusal, Training, advise
from itop.layers import find_layers
from itop.methods import METHODS


def run(model: nn.Module, sparsity: float, allocation: str, advice: Advice, seed: int) -> SparseEngine:
    """The engine after a training in which nothing is computed: where random growth explores, values do not matter."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    method = METHODS["set-itop"](update_every=advice.update_every, drop_fraction=advice.drop_fraction)
    engine = SparseEngine(
        model, optimizer, method, sparsity=sparsity, allocation=allocation, total_steps=advice.total_steps, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for _ in range(advice.total_steps):
        optimizer.step()
    return engine


def layers_of(model: nn.Module, sparsity: float, allocation: str) -> list[Layer]:
    shapes = [LayerShape(layer.name, layer.shape) for layer in find_layers(model)]
    counts = as_allocation(allocation).counts(shapes, sparsity)
    return [Layer(s.name, tuple(s.shape), count / s.numel) for s, count in zip(shapes, counts, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 90), min_size=2, max_size=4),
    kernel=st.sampled_from([0, 1, 3]),
    sparsity=st.sampled_from([0.3, 0.5, 0.8, 0.9, 0.95, 0.99]),
    allocation=st.sampled_from(["erk", "er", "uniform"]),
    samples=st.integers(1, 400),
    epochs=st.integers(1, 6),
    part=st.floats(0.02, 1.0),
    preferred=st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0]),
    min_interval=st.sampled_from([1, 3, 40]),
    seed=st.integers(0, 1000),
)
def test_the_predicted_rate_is_explored_and_the_wanted_one_reached(
    sizes: list[int],
    kernel: int,
    sparsity: float,
    allocation: str,
    samples: int,
    epochs: int,
    part: float,
    preferred: float,
    min_interval: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    pairs = list(itertools.pairwise(sizes))
    model = nn.Sequential(*(nn.Conv2d(a, b, kernel) if kernel else nn.Linear(a, b) for a, b in pairs))
    layers = layers_of(model, sparsity, allocation)
    numel = sum(layer.numel for layer in layers)
    density = sum(layer.num_active for layer in layers) / numel
    wanted = density + part * (1.0 - density)
    if not density < wanted <= 1.0:
        return
    choice = DropFractionChoice(preferred, largest=max(0.9, preferred))
    answer = advise(layers, Training(samples, 8, epochs), wanted, min_interval, drop_fractions=choice)
    if isinstance(answer, Refusal):
        assert answer.largest_rate < wanted
        return
    engine = run(model, sparsity, allocation, answer, seed)
    assert engine.num_updates == answer.num_updates
    assert answer.exploration_rate >= wanted
    # 0.02 is promised; a network of a few hundred weights is left to chance by more than that.
    allowed = max(0.02 if numel >= 2_000 else 0.0, 5 * answer.standard_error, 1.5 / numel)
    assert engine.exploration_rate == pytest.approx(answer.exploration_rate, abs=allowed)


def test_what_a_refusal_names_as_the_most_is_explored_too() -> None:
    model = nn.Sequential(nn.Linear(60, 80), nn.Linear(80, 40))
    layers = layers_of(model, 0.95, "erk")
    training = Training(200, 8, 2)
    refusal = advise(layers, training, 1.0, 5)
    assert isinstance(refusal, Refusal)
    just_below = math.floor(refusal.largest_rate * 1e6 - 1) / 1e6
    advice = advise(layers, training, just_below, 5)
    assert isinstance(advice, Advice)
    assert run(model, 0.95, "erk", advice, 0).exploration_rate == pytest.approx(refusal.largest_rate, abs=0.02)
    assert refusal.epochs_needed is None or refusal.epochs_needed > 2
    assert refusal.longest_update_every is None or refusal.longest_update_every < 5
