"""Whole topology updates of the native store against ``reference.py``: masks, values and counts, thousands of times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itop import _core
from native_store import DTYPES, NativeStore
from reference import (
    KeyStream,
    LayerState,
    Rule,
    allocate,
    commit,
    erk_densities,
    expected_exploration_rate,
    update_layer,
)

DROP, GROW = 0, 1
SIZES = [1, 2, 7, 64, 65, 130, 300]


class PairedModel:
    """The same layers twice: native bits and torch tensors, reference masks and NumPy arrays."""

    def __init__(self, sizes: list[int], density: float, dtype: torch.dtype, seed: int) -> None:
        self.dtype, self.seed = dtype, seed
        self.store = NativeStore(sizes, seed)
        generator = np.random.default_rng(seed % 2**32)
        self.num_active = [max(1, round(density * size)) for size in sizes]
        self.tensors = [[torch.zeros(size, dtype=dtype) for _ in range(2)] for size in sizes]  # weights, momentum
        nothing = [np.zeros(size, dtype=bool) for size in sizes]
        initial = self.store.select([~empty for empty in nothing], self.num_active)
        self.store.commit(nothing, initial, self.tensors, marks_reliable=False)
        self.layers = [LayerState([np.zeros(len(active)), np.zeros(len(active))], active) for active in initial]
        self.train(generator)

    def train(self, generator: np.random.Generator) -> list[torch.Tensor]:
        """New active weights and momentum with ties and zeros among them; returns dense gradients of that kind."""
        gradients = []
        for layer, (weights, momentum) in zip(self.layers, self.tensors, strict=True):
            for values, tensor in zip(layer.values, (weights, momentum), strict=True):
                drawn = torch.from_numpy(generator.integers(-4, 5, len(values)) / 4.0).to(self.dtype)
                tensor.copy_(drawn * torch.from_numpy(layer.active))
                values[:] = tensor.double().numpy()
            gradients.append(torch.from_numpy(generator.integers(-3, 4, len(layer.active)) / 2.0).to(self.dtype))
        return gradients

    def update(self, number: int, num_changed: list[int], rule: Rule, gradients: list[torch.Tensor]) -> np.ndarray:
        """One update on both sides; returns the native counts."""
        native_active = self.store.to_bools(self.store.native.active)
        native_explored = self.store.to_bools(self.store.native.explored)
        weights = [weights for weights, _ in self.tensors]
        dropped = self.store.select(native_active, num_changed, weights, largest=False, update=number, draw=DROP)
        sites = [~(active & ~drop) for active, drop in zip(native_active, dropped, strict=True)]
        scores = gradients if rule.by_gradient else None
        grown = [np.zeros_like(site) for site in sites]
        if rule.unexplored_first:
            fresh = [site & ~explored for site, explored in zip(sites, native_explored, strict=True)]
            grown = self.store.select(fresh, num_changed, scores, update=number, draw=GROW)
        left = [k - int(grow.sum()) for k, grow in zip(num_changed, grown, strict=True)]
        others = [site & ~grow for site, grow in zip(sites, grown, strict=True)]
        rest = self.store.select(others, left, scores, update=number, draw=GROW)
        grown = [grow | more for grow, more in zip(grown, rest, strict=True)]
        keeps = rule.regrown_keeps_value
        counts = self.store.commit(dropped, grown, self.tensors, regrown_keeps_value=keeps)
        for index, layer in enumerate(self.layers):
            update_layer(
                layer,
                num_changed[index],
                rule,
                gradients=gradients[index].double().numpy(),
                drop_keys=KeyStream(self.seed, index, number, DROP),
                grow_keys=KeyStream(self.seed, index, number, GROW),
            )
        return counts

    def assert_agree(self) -> None:
        sets = (self.store.native.active, self.store.native.explored, self.store.native.reliable)
        active, explored, reliable = (self.store.to_bools(bits) for bits in sets)
        for index, layer in enumerate(self.layers):
            np.testing.assert_array_equal(active[index], layer.active)
            np.testing.assert_array_equal(explored[index], layer.explored)
            np.testing.assert_array_equal(reliable[index], layer.reliable)
            for tensor, values in zip(self.tensors[index], layer.values, strict=True):
                np.testing.assert_array_equal(tensor.double().numpy(), values)
                assert not values[~layer.active].any(), "an inactive weight or its state is not zero"


RULES = st.builds(Rule, by_gradient=st.booleans(), unexplored_first=st.booleans(), regrown_keeps_value=st.booleans())


@given(
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=4),
    density=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    drop_fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    rule=RULES,
    threads=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=120)
def test_updates_agree_with_the_reference(
    sizes: list[int],
    density: float,
    drop_fraction: float,
    dtype: torch.dtype,
    rule: Rule,
    threads: int,
    seed: int,
) -> None:
    _core.set_num_threads(threads)
    model = PairedModel(sizes, density, dtype, seed)
    generator = np.random.default_rng(seed % 2**31)
    num_changed = [round(drop_fraction * active) for active in model.num_active]
    for number in range(1, 5):
        gradients = model.train(generator)
        counts = model.update(number, num_changed, rule, gradients)
        model.assert_agree()
        for index, layer in enumerate(model.layers):
            assert layer.active.sum() == model.num_active[index]
            expected = [layer.active.sum(), layer.explored.sum(), layer.reliable.sum(), num_changed[index]]
            assert counts[index][:4].tolist() == expected


@pytest.mark.parametrize("by_gradient", [False, True], ids=["random growth", "gradient growth"])
def test_counts_stay_exact_and_sets_only_grow_over_thousands_of_updates(by_gradient: bool) -> None:
    """Without the reference at its side, the store is quick enough for thousands of updates of awkward layers."""
    sizes, seed = [1, 3, 64, 65, 200], 11
    store = NativeStore(sizes, seed)
    generator = np.random.default_rng(seed)
    tensors = [[torch.zeros(size)] for size in sizes]
    num_active = [1, 1, 13, 20, 20]
    num_changed = [1, 0, 4, 20, 7]
    nothing = [np.zeros(size, dtype=bool) for size in sizes]
    store.commit(nothing, store.select([~empty for empty in nothing], num_active), tensors)
    explored_before = [np.zeros(size, dtype=bool) for size in sizes]
    reliable_before = [np.zeros(size, dtype=bool) for size in sizes]
    for number in range(1, 2001):
        active = store.to_bools(store.native.active)
        for (weights,), mask in zip(tensors, active, strict=True):
            weights.copy_(torch.from_numpy(generator.integers(-1, 2, len(mask)) * mask))
        gradients = [torch.from_numpy(generator.integers(-1, 2, size).astype(np.float32)) for size in sizes]
        dropped = store.select(active, num_changed, [weights for (weights,) in tensors], largest=False, update=number)
        sites = [~(mask & ~drop) for mask, drop in zip(active, dropped, strict=True)]
        grown = store.select(sites, num_changed, gradients if by_gradient else None, update=number, draw=GROW)
        counts = store.commit(dropped, grown, tensors)
        assert counts[:, 0].tolist() == num_active
        assert counts[:, 3].tolist() == num_changed
        assert counts[:, 4].tolist() == num_changed
        for index, (explored, reliable) in enumerate(
            zip(store.to_bools(store.native.explored), store.to_bools(store.native.reliable), strict=True)
        ):
            assert not (explored_before[index] & ~explored).any()
            assert not (reliable_before[index] & ~reliable).any()
            assert not (reliable & ~explored).any()
            explored_before[index], reliable_before[index] = explored, reliable


@pytest.mark.parametrize("density", [0.1, 0.05])
def test_random_growth_explores_as_the_closed_form_says(density: float) -> None:
    """R_s of 100,000 weights after 60 cosine-annealed updates against PAPER section 1's closed form."""
    size, updates = 100_000, 60
    num_active = round(density * size)
    fractions = [0.005 + (0.5 - 0.005) / 2 * (1 + np.cos(np.pi * i / updates)) for i in range(updates)]
    counts = [round(fraction * num_active) for fraction in fractions]
    store = NativeStore([size], seed=3)
    everything, nothing = np.ones(size, dtype=bool), np.zeros(size, dtype=bool)
    weights = torch.zeros(size)
    store.commit([nothing], store.select([everything], [num_active]), [[weights]])
    generator = np.random.default_rng(4)
    for number, changed in enumerate(counts, start=1):
        (active,) = store.to_bools(store.native.active)
        # What is dropped does not matter to the formula; weights are fresh each time.
        weights.copy_(torch.from_numpy((generator.random(size) + 0.1) * active))
        (dropped,) = store.select([active], [changed], [weights], largest=False, update=number)
        (grown,) = store.select([~(active & ~dropped)], [changed], update=number, draw=GROW)
        store.commit([dropped], [grown], [[weights]])
    measured = store.native.explored.count(0)[0] / size
    expected = expected_exploration_rate(density, [count / num_active for count in counts])
    # The number explored has a standard deviation below sqrt(size) / 2: five of those.
    assert measured == pytest.approx(expected, abs=2.5 / np.sqrt(size))


@given(data=st.data())
@settings(max_examples=200)
def test_allocation_agrees_with_the_reference(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 3])), min_size=1, max_size=8)
    )
    numel = [a * b * c * c for a, b, c in shapes]
    densities = erk_densities([(a, b, c, c) for a, b, c in shapes])
    total = data.draw(st.integers(0, sum(numel)))
    native = _core.allocate(numel, densities, total)
    expected = allocate(numel, densities, total)
    assert sum(native) == total == sum(expected)
    # Remainders that differ by rounding errors only may fall to either layer.
    assert max(abs(a - b) for a, b in zip(native, expected, strict=True)) <= 1


def test_commit_of_the_reference_follows_the_rules_by_hand() -> None:
    """Kept, dropped, regrown, grown, untouched: the reference itself, pinned."""
    layer = LayerState([np.arange(1.0, 6.0)], np.array([1, 1, 1, 0, 0], dtype=bool))
    dropped = np.array([0, 1, 1, 0, 0], dtype=bool)
    grown = np.array([0, 0, 1, 1, 0], dtype=bool)
    commit(layer, dropped, grown, regrown_keeps_value=True)
    assert layer.weights.tolist() == [1.0, 0.0, 3.0, 0.0, 5.0]
    assert layer.active.tolist() == [True, False, True, True, False]
    assert layer.explored.tolist() == [True, True, True, True, False]
    assert layer.reliable.tolist() == [True, False, False, False, False]
    commit(layer, np.zeros(5, dtype=bool), np.zeros(5, dtype=bool), zero_all_inactive=True, marks_reliable=False)
    assert layer.weights.tolist() == [1.0, 0.0, 3.0, 0.0, 0.0]
    assert layer.reliable.tolist() == [True, False, False, False, False]
