"""The same bits for every number of threads, down to the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itop import _core
from native_store import NativeStore

SIZES = [500_001, 131_072, 70_000, 1_000, 64, 1]


def updated_store(threads: int, by_gradient: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Explored sets and weights after a few updates of layers larger and smaller than a chunk."""
    _core.set_num_threads(threads)
    store = NativeStore(SIZES, seed=21)
    generator = np.random.default_rng(8)
    weights = [torch.zeros(size) for size in SIZES]
    nothing = [np.zeros(size, dtype=bool) for size in SIZES]
    num_active = [max(1, size // 10) for size in SIZES]
    num_changed = [active // 3 for active in num_active]
    store.commit(nothing, store.select([~empty for empty in nothing], num_active), [[w] for w in weights])
    for number in range(1, 4):
        active = store.to_bools(store.native.active)
        for weight, mask in zip(weights, active, strict=True):
            # Rounded, so that ties at the threshold are many.
            weight.copy_(torch.from_numpy(np.round(generator.standard_normal(len(mask)), 2) * mask))
        gradients = [torch.from_numpy(np.round(generator.standard_normal(size), 2)) for size in SIZES]
        dropped = store.select(active, num_changed, weights, largest=False, update=number)
        sites = [~(mask & ~drop) for mask, drop in zip(active, dropped, strict=True)]
        grown = store.select(sites, num_changed, gradients if by_gradient else None, update=number, draw=1)
        store.commit(dropped, grown, [[w] for w in weights])
    return store.to_bools(store.native.explored), [weight.numpy() for weight in weights]


@pytest.mark.parametrize("by_gradient", [False, True], ids=["random growth", "gradient growth"])
def test_masks_and_weights_do_not_depend_on_the_number_of_threads(by_gradient: bool) -> None:
    explored_of_one, weights_of_one = updated_store(1, by_gradient)
    for threads in (2, 3, 7):
        explored, weights = updated_store(threads, by_gradient)
        for actual, expected in zip(explored + weights, explored_of_one + weights_of_one, strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_the_number_of_threads_can_be_set_and_read() -> None:
    _core.set_num_threads(5)
    assert _core.num_threads() == 5
    assert _core.build_info()["num_threads"] == 5
    with pytest.raises(ValueError, match="at least 1"):
        _core.set_num_threads(0)
    assert _core.num_threads() == 5
