"""Topology distance, churn and survival on any topology, against plain references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itop.analysis import (
    PackedMask,
    TopologyChange,
    churn,
    connection_costs,
    layer_topology_distance,
    packed_churn,
    survival_curve,
    topology_distance,
)


@st.composite
def masks(draw: st.DrawFn, num_masks: int = 1, max_outputs: int = 5, max_inputs: int = 130) -> list[Tensor]:
    outputs, inputs = draw(st.integers(1, max_outputs)), draw(st.integers(1, max_inputs))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    return [torch.rand(outputs, inputs, generator=generator) < density for _ in range(num_masks)]


@settings(max_examples=60, deadline=None)
@given(masks(num_masks=2))
def test_costs_and_the_best_matching_are_those_of_brute_force(pair: list[Tensor]) -> None:
    first, second = pair
    units = range(len(first))
    reference = np.zeros((len(first), len(first)))
    for i, j in itertools.product(units, units):
        either = int((first[i] | second[j]).sum())
        reference[i, j] = int((first[i] ^ second[j]).sum()) / either if either else 0.0
    np.testing.assert_allclose(connection_costs(first, second), reference)
    best = min(np.mean([reference[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(units))
    assert layer_topology_distance(first, second).distance == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(masks(num_masks=2))
def test_distance_is_symmetric_within_bounds_and_zero_to_itself(pair: list[Tensor]) -> None:
    first, second = pair
    there, back = layer_topology_distance(first, second).distance, layer_topology_distance(second, first).distance
    assert there == pytest.approx(back)
    assert 0.0 <= there <= 1.0
    assert layer_topology_distance(first, first).distance == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(2, 12), st.integers(30, 80))
def test_a_network_with_its_neurons_reordered_is_at_distance_zero(seed: int, a: int, b: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = {
        "1": torch.rand(a, inputs, generator=generator) < 0.5,
        "2": torch.rand(b, a, generator=generator) < 0.5,
        "3": torch.rand(3, b, generator=generator) < 0.5,
    }
    # Units wired alike may be matched either way, and only one of the ways carries to the next layer.
    if any(len(torch.unique(mask, dim=0)) < len(mask) for mask in (first["1"], first["2"])):
        return
    order_a, order_b = torch.randperm(a, generator=generator), torch.randperm(b, generator=generator)
    moved = {"1": first["1"][order_a], "2": first["2"][order_b][:, order_a], "3": first["3"][:, order_b]}
    assert topology_distance(first, moved).distance == 0.0


@settings(max_examples=60, deadline=None)
@given(masks(num_masks=2))
def test_churn_counts_what_differs_packed_or_not(pair: list[Tensor]) -> None:
    first, second = ({"w": mask} for mask in pair)
    expected = {"w": int((pair[0] != pair[1]).sum())}
    assert churn(first, second) == expected
    packed = [{"w": PackedMask.pack(mask)} for mask in pair]
    assert packed_churn(packed[0], packed[1]) == expected
    assert torch.equal(packed[0]["w"].unpack(), pair[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 8))
def test_survival_is_the_product_limit_of_the_lives_one_by_one(seed: int, numel: int, num_updates: int) -> None:
    generator = np.random.default_rng(seed)
    alive = np.zeros(numel, dtype=bool)
    birth: dict[int, int] = {}
    lives: list[tuple[int, bool]] = []
    history = []
    step = 0
    for _ in range(num_updates):
        step += int(generator.integers(1, 5))
        dropped = alive & (generator.random(numel) < 0.4)
        grown = (~alive | dropped) & (generator.random(numel) < 0.3)
        lives += [(step - birth.pop(site), True) for site in np.flatnonzero(dropped).tolist()]
        birth |= dict.fromkeys(np.flatnonzero(grown).tolist(), step)
        alive = (alive & ~dropped) | grown
        packed = [{"w": PackedMask.pack(torch.from_numpy(sites))} for sites in (dropped, grown)]
        history.append(TopologyChange(step, packed[0], packed[1]))
    end = step + 3
    lives += [(end - born, False) for born in birth.values()]

    curve = survival_curve(history, end_step=end)
    survival = 1.0
    ages = sorted({age for age, ended in lives if ended})
    assert curve.ages.tolist() == ages
    for i, age in enumerate(ages):
        at_risk = sum(life >= age for life, _ in lives)
        survival *= 1 - lives.count((age, True)) / at_risk
        assert curve.num_at_risk[i] == at_risk
        assert curve.survival[i] == pytest.approx(survival)
