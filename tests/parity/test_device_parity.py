"""The same bits on every device: random layers of every type, with ties and zeros, over a hundred updates.

``ITOP_TEST_DEVICES`` names the devices that are compared with one CPU thread, separated by commas; by default the CPU with
several threads, and ``cuda`` where torch sees a GPU and the core was compiled for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from itop import _core

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CUDA_USABLE = torch.cuda.is_available() and bool(_core.build_info()["num_cuda_devices"])


def why_no_cuda() -> str:
    status = _core.build_info()["cuda_status"]
    return f"no CUDA device for parity: torch sees {torch.cuda.device_count()}, the core says '{status}'"


def compared_devices() -> list[object]:
    named = os.environ.get("ITOP_TEST_DEVICES")
    if named is not None:
        return [pytest.param(name, id=name) for name in named.split(",")]
    return [
        pytest.param("cpu", id="cpu"),
        pytest.param(
            "cuda", id="cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not CUDA_USABLE, reason=why_no_cuda())]
        ),
    ]


@dataclass(frozen=True)
class LayerShape:
    """A layer in storage order. ``strides`` other than (0, 0, 0, 1) make it a channels-last or sharded one."""

    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    offset: int
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return int(np.prod(self.sizes))


def random_layers(count: int, largest: int, generator: np.random.Generator) -> list[LayerShape]:
    """Sizes around a word and a warp's tile, any size up to ``largest``, some stored channels last, some shards."""
    edges = [1, 63, 64, 65, 2047, 2048, 2049]
    layers = []
    for i in range(count):
        dtype = DTYPES[i % len(DTYPES)]
        if i % 5 == 3:
            out, channels, height, width = (int(n) for n in generator.integers(1, 12, size=4))
            area = height * width
            layers.append(LayerShape((out, height, width, channels), (channels * area, width, 1, area), 0, dtype))
            continue
        numel = edges[i % len(edges)] if i % 3 == 0 else int(generator.integers(1, largest))
        offset = int(generator.integers(0, 1000)) if i % 7 == 2 else 0
        layers.append(LayerShape((1, 1, 1, numel), (0, 0, 0, 1), offset, dtype))
    return layers


def random_values(layer: LayerShape, generator: np.random.Generator) -> Tensor:
    """Values with no ties, some ties, mostly zeros, or nothing but signed zeros."""
    values = generator.standard_normal(layer.numel)
    kind = generator.integers(0, 4)
    if kind == 1:
        values = np.round(4 * values) / 4
    elif kind == 2:
        values *= generator.random(layer.numel) < 0.1
    elif kind == 3 and generator.random() < 0.3:
        values = np.where(generator.random(layer.numel) < 0.5, 0.0, -0.0)
    return torch.from_numpy(values).to(layer.dtype)


@dataclass
class Run:
    """One model's topology on one device, with weights and a state tensor a layer."""

    layers: Sequence[LayerShape]
    device: torch.device
    threads: int
    store: _core.MaskStore = field(init=False)
    weights: list[Tensor] = field(init=False)
    states: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        rows = [(f"layer{i}", layer.offset, layer.sizes, layer.strides) for i, layer in enumerate(self.layers)]
        self.store = _core.MaskStore(rows, self.device.type, self.device.index or 0, 77, self.stream)
        self.weights = [torch.zeros(layer.numel, dtype=layer.dtype, device=self.device) for layer in self.layers]
        self.states = [torch.zeros(layer.numel, dtype=torch.float32, device=self.device) for layer in self.layers]

    @property
    def stream(self) -> int:
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def select(
        self,
        candidates: _core.BitSets,
        scores: Sequence[Tensor | None],
        k: Sequence[int],
        update: int,
        draw: int,
        *,
        largest: bool = True,
        magnitude: bool = True,
        merged: bool = False,
    ) -> _core.BitSets:
        def one_of_one(counts: npt.NDArray[np.int64]) -> None:
            """Sums over the only part there is."""

        _core.set_num_threads(self.threads)
        return self.store.select(
            candidates,
            scores,
            magnitude=magnitude,
            largest=largest,
            k=list(k),
            across_layers=len(k) == 1 and len(self.layers) > 1,
            update=update,
            draw=draw,
            reduction=one_of_one if merged else None,
            stream=self.stream,
        )

    def update(self, number: int, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> npt.NDArray[np.int64]:
        """One topology update; what it does depends on ``number`` only."""
        for weight, state, value in zip(self.weights, self.states, values, strict=True):
            weight.copy_(value.to(self.device))
            state.fill_(float(number))
        tensors = [[weight, state] for weight, state in zip(self.weights, self.states, strict=True)]
        nothing = self.store.empty(self.stream)
        if number == 0:
            k = [layer.numel // 3 for layer in self.layers]
            initial = self.select(self.store.full(self.stream), [None] * len(self.layers), k, 0, 0)
            return self.commit(nothing, initial, tensors, number)
        self.store.apply(tensors, self.stream)
        num_active = self.store.active.count(self.stream)
        globally = number % 4 == 2
        k = [max(1, active // 3) for active in num_active]
        dropped = self.select(
            self.store.active,
            self.weights,
            [sum(k)] if globally else k,
            number,
            0,
            largest=False,
            merged=number % 10 == 9,
        )
        kept = self.store.active.difference(dropped, self.stream)
        free = self.store.full(self.stream).difference(kept, self.stream)
        scores: list[Tensor | None] = [gradient.to(self.device) for gradient in gradients]
        if number % 3 == 0:
            scores = [None] * len(self.layers)
        grow = dropped.count(self.stream)
        grown = self.select(free, scores, grow, number, 1, magnitude=number % 2 == 0, merged=number % 10 == 9)
        return self.commit(dropped, grown, tensors, number)

    def commit(
        self, dropped: _core.BitSets, grown: _core.BitSets, tensors: list[list[Tensor]], number: int
    ) -> npt.NDArray[np.int64]:
        return self.store.commit(
            dropped,
            grown,
            tensors,
            zero_all_inactive=number % 5 == 0,
            regrown_keeps_value=number % 2 == 1,
            marks_reliable=number > 0,
            stream=self.stream,
        )

    def snapshot(self) -> list[npt.NDArray[np.generic]]:
        """Every bit of state, layer by layer: active, explored, reliable words, then weights and states as bytes."""
        arrays: list[npt.NDArray[np.generic]] = []
        for i in range(len(self.layers)):
            sets = (self.store.active, self.store.explored, self.store.reliable)
            arrays += [one.words(i, self.stream) for one in sets]
            arrays += [tensor.cpu().view(torch.uint8).numpy() for tensor in (self.weights[i], self.states[i])]
        return arrays


def compare(layers: Sequence[LayerShape], device: torch.device, num_updates: int, seed: int) -> None:
    """Runs both in lockstep and wants the same bits after every update."""
    reference = Run(layers, torch.device("cpu"), threads=1)
    compared = Run(layers, device, threads=3)
    generator = np.random.default_rng(seed)
    for number in range(num_updates + 1):
        values = [random_values(layer, generator) for layer in layers]
        gradients = [random_values(layer, generator) for layer in layers]
        counts = compared.update(number, values, gradients)
        np.testing.assert_array_equal(counts, reference.update(number, values, gradients), f"counts of update {number}")
        for place, (actual, expected) in enumerate(zip(compared.snapshot(), reference.snapshot(), strict=True)):
            if not np.array_equal(actual, expected):
                what = ("active", "explored", "reliable", "weights", "state")[place % 5]
                pytest.fail(f"update {number}, layer {place // 5} {layers[place // 5]}: {what} differ on {device}")


@pytest.mark.parametrize("device_name", compared_devices())
def test_a_hundred_updates_of_random_layers_leave_the_same_bits(device_name: str) -> None:
    layers = random_layers(25, 4000, np.random.default_rng(1))
    compare(layers, torch.device(device_name), num_updates=100, seed=2)


@pytest.mark.parametrize("device_name", compared_devices())
def test_layers_larger_than_a_sample_leave_the_same_bits(device_name: str) -> None:
    layers = [
        LayerShape((1, 1, 1, numel), (0, 0, 0, 1), 0, DTYPES[i])
        for i, numel in enumerate((300_001, 70_000, 65_600, 40_003))
    ]
    compare(layers, torch.device(device_name), num_updates=8, seed=3)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not CUDA_USABLE, reason=why_no_cuda())
def test_a_thousand_random_layers_and_a_hundred_updates_on_the_gpu() -> None:
    compare(random_layers(1000, 6000, np.random.default_rng(4)), torch.device("cuda"), num_updates=100, seed=5)


@pytest.mark.parametrize("device_name", compared_devices())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_without_an_order_are_refused_by_name_and_nothing_changes(device_name: str, bad: float) -> None:
    layers = random_layers(6, 3000, np.random.default_rng(6))
    run = Run(layers, torch.device(device_name), threads=2)
    generator = np.random.default_rng(7)
    run.update(0, [random_values(layer, generator) for layer in layers], [])
    before = run.snapshot()
    scores = [weight.clone() for weight in run.weights]
    scores[4][-1] = bad
    for merged in (False, True):
        with pytest.raises(_core.NonFiniteError, match="layer4"):
            run.select(run.store.active, scores, [1] * len(layers), 1, 0, merged=merged).count(run.stream)
    for actual, expected in zip(run.snapshot(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA_USABLE, reason=why_no_cuda())
def test_mask_application_can_be_captured_in_a_cuda_graph_and_an_update_cannot() -> None:
    layers = random_layers(120, 3000, np.random.default_rng(8))  # two tensors each: more than a small table
    run = Run(layers, torch.device("cuda"), threads=1)
    generator = np.random.default_rng(9)
    values = [random_values(layer, generator) for layer in layers]
    run.update(0, values, [])
    tensors = [[weight, state] for weight, state in zip(run.weights, run.states, strict=True)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run.store.apply(tensors, run.stream)
        with pytest.raises(_core.CudaError, match="cannot be captured"):
            run.store.active.count(run.stream)
    for _ in range(2):
        for weight in run.weights:
            weight.fill_(1.0)
        graph.replay()
        torch.cuda.synchronize()
        for i, weight in enumerate(run.weights):
            words = run.store.active.words(i, run.stream)
            mask = np.unpackbits(words.view(np.uint8), bitorder="little")[: layers[i].numel]
            np.testing.assert_array_equal(weight.cpu().float().numpy(), mask.astype(np.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA_USABLE, reason=why_no_cuda())
def test_bit_sets_used_on_other_streams_may_be_dropped_while_work_is_under_way() -> None:
    layers = [LayerShape((1, 1, 1, 1 << 22), (0, 0, 0, 1), 0, torch.float32)]
    run = Run(layers, torch.device("cuda"), threads=1)
    expected = run.store.full(run.stream).count(run.stream)
    for _ in range(50):
        temporary = run.store.full(run.stream)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            copy = temporary.copy(run.stream)
            del temporary
        run.store.empty(run.stream)  # may take the memory just freed
        torch.cuda.synchronize()
        assert copy.count(run.stream) == expected


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not CUDA_USABLE, reason=why_no_cuda())
def test_a_layer_of_more_than_two_to_the_31_weights() -> None:
    numel = (1 << 31) + 4099
    if torch.cuda.mem_get_info()[0] < 8 * numel:
        pytest.skip(f"needs {8 * numel >> 30} GiB of free GPU memory")
    run = Run([LayerShape((1, 1, 1, numel), (0, 0, 0, 1), 0, torch.bfloat16)], torch.device("cuda"), threads=1)
    places = [0, 12345, (1 << 31) - 1, 1 << 31, numel - 1]
    run.weights[0][places] = torch.tensor([3.0, -1.0, 2.0, -5.0, 4.0], dtype=torch.bfloat16, device="cuda")
    full = run.store.full(run.stream)
    for k, chosen in ((5, places), (3, [0, 1 << 31, numel - 1])):
        words = run.select(full, run.weights, [k], 0, 0).words(0, run.stream)
        bits = [
            int(word) * 64 + bit for word in np.flatnonzero(words) for bit in range(64) if int(words[word]) >> bit & 1
        ]
        assert bits == chosen
    ties = run.select(full, run.weights, [numel // 2], 0, 0)
    assert ties.count(run.stream) == [numel // 2]
    assert run.select(full, [None], [numel // 10], 0, 0).count(run.stream) == [numel // 10]


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA_USABLE or torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_device_comes_from_the_store_and_the_current_one_stays() -> None:
    layers = random_layers(10, 2000, np.random.default_rng(10))
    assert torch.cuda.current_device() == 0
    compare(layers, torch.device("cuda", 1), num_updates=5, seed=11)
    assert torch.cuda.current_device() == 0
