"""The binding layer: what crosses it, what is refused at it, and with which words."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from itop import _core
from native_store import NativeStore


def ones(*sizes: int) -> list[np.ndarray]:
    return [np.ones(size, dtype=bool) for size in sizes]


def test_bits_cross_as_words_and_as_bool_tensors() -> None:
    store = NativeStore([70])
    flags = np.zeros(70, dtype=bool)
    flags[[0, 63, 64, 69]] = True
    sets = store.to_sets([flags])
    assert sets.words(0, 0).tolist() == [1 | 1 << 63, 1 | 1 << 5]
    target = torch.ones(70, dtype=torch.bool)
    sets.unpack(0, target, 0)
    np.testing.assert_array_equal(target.numpy(), flags)
    packed = store.native.empty(0)
    packed.pack(0, target, 0)
    np.testing.assert_array_equal(packed.words(0, 0), sets.words(0, 0))


def test_set_operations_are_those_of_sets() -> None:
    store = NativeStore([4])
    a = store.to_sets([np.array([1, 1, 0, 0], dtype=bool)])
    b = store.to_sets([np.array([1, 0, 1, 0], dtype=bool)])

    def flags(sets: _core.BitSets) -> list[int]:
        return store.to_bools(sets)[0].astype(int).tolist()

    assert flags(a.intersection(b, 0)) == [1, 0, 0, 0]
    assert flags(a.union(b, 0)) == [1, 1, 1, 0]
    assert flags(a.difference(b, 0)) == [0, 1, 0, 0]
    assert flags(a.symmetric_difference(b, 0)) == [0, 1, 1, 0]
    assert a.count(0) == [2]


def test_a_set_keeps_its_store_alive() -> None:
    active = NativeStore([100]).native.active
    assert active.count(0) == [0]


def test_the_store_takes_three_bits_a_weight() -> None:
    assert NativeStore([64_000, 100]).native.num_bytes() == 3 * (8_000 + 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_tensors_are_changed_in_place_and_keep_their_storage(dtype: torch.dtype) -> None:
    store = NativeStore([5])
    weights = torch.arange(1.0, 6.0, dtype=dtype)
    address = weights.data_ptr()
    store.commit([np.zeros(5, bool)], [np.array([1, 1, 0, 0, 0], dtype=bool)], [[torch.zeros(5)]])
    store.native.apply([[weights]], 0)
    assert weights.tolist() == [1.0, 2.0, 0.0, 0.0, 0.0]
    assert weights.data_ptr() == address


def test_a_parameter_that_requires_grad_is_borrowed_too() -> None:
    store = NativeStore([3])
    parameter = torch.nn.Parameter(torch.ones(3))
    store.native.apply([[parameter]], 0)
    assert parameter.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (torch.ones(4), ValueError, "layer 'layer0' has 4 values, the layer has 5"),
        (torch.ones(5, dtype=torch.int32), TypeError, "float32, float64, bfloat16 or float16, got torch.int32"),
        (torch.ones(5, device="meta"), TypeError, "CPU or a CUDA device, got one on meta"),
    ],
    ids=["wrong size", "wrong type", "no memory"],
)
def test_tensors_that_do_not_fit_are_refused(tensor: torch.Tensor, error: type[Exception], message: str) -> None:
    store = NativeStore([5])
    with pytest.raises(error, match=message):
        store.select(ones(5), [2], [tensor])
    with pytest.raises(error, match=message):
        store.native.apply([[tensor]], 0)


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises((TypeError, AttributeError)):
        NativeStore([5]).native.apply([[object()]], 0)  # type: ignore[list-item]


def test_words_that_do_not_fit_are_refused_and_change_nothing() -> None:
    sets = NativeStore([70]).native.empty(0)
    with pytest.raises(ValueError, match="layer 'layer0' has 2 words of bits, got 1"):
        sets.set_words(0, np.zeros(1, dtype=np.uint64), 0)
    with pytest.raises(ValueError, match="past the end of layer 'layer0'"):
        sets.set_words(0, np.array([0, 1 << 6], dtype=np.uint64), 0)
    with pytest.raises(IndexError):
        sets.words(1, 0)
    with pytest.raises(ValueError, match="must have 70 values"):
        sets.pack(0, torch.ones(71, dtype=torch.bool), 0)
    with pytest.raises(TypeError, match="must be bool"):
        sets.unpack(0, torch.ones(70), 0)
    assert sets.count(0) == [0]


def test_sets_of_different_stores_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different mask stores"):
        NativeStore([5]).native.empty(0).union(NativeStore([5]).native.empty(0), 0)


def test_a_refused_selection_changes_nothing() -> None:
    store = NativeStore([5, 5])
    with pytest.raises(ValueError, match="NaN or infinity"):
        store.select(ones(5, 5), [2, 2], [torch.ones(5), torch.full((5,), torch.nan)])
    assert store.native.active.count(0) == [0, 0]
    assert store.native.explored.count(0) == [0, 0]


def test_a_reduction_sees_counts_and_its_sums_are_used() -> None:
    """Two threads hold half a layer each; what they choose together is what one process chooses."""
    whole = NativeStore([200], seed=5)
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.standard_normal(200))
    (expected,) = whole.select(ones(200), [40], [scores])

    barrier = threading.Barrier(2)
    slots: list[np.ndarray] = [np.empty(0), np.empty(0)]
    chosen: list[np.ndarray] = [np.empty(0), np.empty(0)]

    def part(index: int) -> None:
        def reduction(counts: np.ndarray) -> None:
            slots[index] = counts.copy()
            barrier.wait(timeout=30)
            counts[:] = slots[0] + slots[1]
            barrier.wait(timeout=30)

        layer = ("layer0", 100 * index, (1, 1, 1, 100), (0, 0, 0, 1))
        store = NativeStore([100])
        store.native = _core.MaskStore([layer], "cpu", 0, 5, 0)
        half = scores[100 * index : 100 * (index + 1)].clone()
        (chosen[index],) = store.select(ones(100), [40], [half], reduction=reduction)

    threads = [threading.Thread(target=part, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate(chosen), expected)


def test_an_error_inside_a_reduction_reaches_the_caller() -> None:
    def reduction(counts: np.ndarray) -> None:
        raise RuntimeError("the network is down")

    with pytest.raises(RuntimeError, match="the network is down"):
        NativeStore([10]).select(ones(10), [3], reduction=reduction)


def test_build_info_says_how_it_was_built() -> None:
    info = _core.build_info()
    assert info["instruction_set"] in {"portable", "avx2", "avx512"}
    assert info["version"]
    assert info["compiler"]
    assert isinstance(info["cuda_compiled"], bool)
    assert info["cuda_status"]


@pytest.mark.skipif(bool(_core.build_info()["num_cuda_devices"]), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(_core.BackendUnavailableError):
        _core.MaskStore([("layer", 0, (1, 1, 1, 5), (0, 0, 0, 1))], "cuda", 0, 0, 0)
    with pytest.raises(ValueError, match="cpu or cuda"):
        _core.MaskStore([("layer", 0, (1, 1, 1, 5), (0, 0, 0, 1))], "mps", 0, 0, 0)
