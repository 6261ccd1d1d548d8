"""Native selection against ``reference.py``, for any scores, candidates, counts, types, orders and threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itop import _core
from native_store import DTYPES, NativeStore
from reference import Candidates, KeyStream, philox, select_k

SEEDS = st.integers(0, 2**64 - 1)
SIZES = st.sampled_from([0, 1, 2, 7, 63, 64, 65, 100, 127, 200, 1000])


def scores_of(kind: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Scores of every awkward kind."""
    if kind == "distinct":
        return generator.standard_normal(size)
    if kind == "ties":
        return generator.choice([0.0, -0.0, 0.5, -0.5, 1.0], size)
    if kind == "equal":
        return np.full(size, -0.25)
    if kind == "zeros":
        return np.where(generator.random(size) < 0.9, 0.0, generator.standard_normal(size))
    return generator.standard_normal(size) * 10.0 ** generator.integers(-3, 4, size)


KINDS = st.sampled_from(["distinct", "ties", "equal", "zeros", "scales"])


def test_philox_of_the_reference_gives_the_known_answers() -> None:
    def words(counter: list[int], key: tuple[int, int]) -> list[int]:
        return [int(word[0]) for word in philox([np.array([c], dtype=np.uint64) for c in counter], key)]

    assert words([0] * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert words([ones] * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert words(pi, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@given(
    seed=SEEDS,
    layer=st.integers(0, 2**32 - 1),
    update=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 127),
    index=st.integers(0, 2**56 - 1),
)
def test_tie_keys_agree(seed: int, layer: int, update: int, draw: int, index: int) -> None:
    assert _core.tie_key(seed, layer, update, draw, index) == int(
        KeyStream(seed, layer, update, draw).tie_keys([index])[0]
    )


@given(data=st.data(), seed=SEEDS)
@settings(max_examples=300)
def test_each_layer_gets_its_k_best(data: st.DataObject, seed: int) -> None:
    sizes = data.draw(st.lists(SIZES, min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(DTYPES))
    magnitude, largest = data.draw(st.booleans()), data.draw(st.booleans())
    update, draw = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(0, 127))
    _core.set_num_threads(data.draw(st.sampled_from([1, 2, 7])))
    generator = np.random.default_rng(seed)
    store = NativeStore(sizes, seed)
    candidates = [generator.random(size) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for size in sizes]
    k = [data.draw(st.integers(0, size + 1)) for size in sizes]
    tensors = [
        torch.from_numpy(scores_of(data.draw(KINDS), size, generator)).to(dtype) if data.draw(st.booleans()) else None
        for size in sizes
    ]

    chosen = store.select(candidates, k, tensors, magnitude=magnitude, largest=largest, update=update, draw=draw)

    for layer, tensor in enumerate(tensors):
        scores = None if tensor is None else tensor.double().numpy()
        stream = KeyStream(seed, layer, update, draw)
        (expected,) = select_k(
            [Candidates(candidates[layer], stream, scores)], k[layer], magnitude=magnitude, largest=largest
        )
        np.testing.assert_array_equal(chosen[layer], expected)
        assert chosen[layer].sum() == min(k[layer], candidates[layer].sum())


@given(data=st.data(), seed=SEEDS)
@settings(max_examples=150)
def test_layers_compete_for_one_count(data: st.DataObject, seed: int) -> None:
    sizes = data.draw(st.lists(SIZES, min_size=1, max_size=4))
    magnitude, largest = data.draw(st.booleans()), data.draw(st.booleans())
    generator = np.random.default_rng(seed)
    store = NativeStore(sizes, seed)
    candidates = [generator.random(size) < 0.6 for size in sizes]
    k = data.draw(st.integers(0, sum(sizes) + 1))
    # Types may differ from layer to layer; every value of a narrower one is a value of the wider.
    tensors = [
        torch.from_numpy(scores_of(data.draw(KINDS), size, generator)).to(data.draw(st.sampled_from(DTYPES)))
        for size in sizes
    ]

    chosen = store.select(candidates, [k], tensors, magnitude=magnitude, largest=largest, across_layers=True, update=3)

    layers = [
        Candidates(candidates[layer], KeyStream(seed, layer, 3, 0), tensor.double().numpy())
        for layer, tensor in enumerate(tensors)
    ]
    for actual, expected in zip(chosen, select_k(layers, k, magnitude=magnitude, largest=largest), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["distinct", "ties", "equal", "zeros", "scales"])
def test_a_layer_large_enough_to_be_sampled_gets_its_k_best(dtype: torch.dtype, kind: str) -> None:
    generator = np.random.default_rng(5)
    size = 150_001
    store = NativeStore([size], seed=77)
    tensor = torch.from_numpy(scores_of(kind, size, generator)).to(dtype)
    for density, k, largest in ((1.0, 4_000, True), (0.1, 5_000, False)):
        candidates = generator.random(size) < density
        (chosen,) = store.select([candidates], [k], [tensor], largest=largest, update=9)
        layer = Candidates(candidates, KeyStream(77, 0, 9, 0), tensor.double().numpy())
        (expected,) = select_k([layer], k, largest=largest)
        np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_without_an_order_are_refused_with_the_layers_name(bad: float, dtype: torch.dtype) -> None:
    store = NativeStore([10, 10])
    tensors = [torch.ones(10, dtype=dtype), torch.ones(10, dtype=dtype)]
    tensors[1][4] = bad
    with pytest.raises(ValueError, match="layer1"):
        store.select([np.ones(10, bool)] * 2, [3, 3], tensors)
