"""What a truly sparse layer asks of a GPU, with a stand-in for the GPU's two products on the host's memory.

The products themselves are tested thread by thread in cpp/tests/cuda_sparse_test.cpp; here it is orders, layouts, types
and which gradients are formed.
"""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from itop import _core
from itop.nn import SparseConv2d, SparseLinear, device_kernels
from itop.nn.pattern import SparsePattern, TieKeys
from itop.sparse_topology import make_topology

_TYPES = {
    _core.ValueType.FLOAT32: torch.float32,
    _core.ValueType.FLOAT64: torch.float64,
    _core.ValueType.BFLOAT16: torch.bfloat16,
}


def _at(address: int, dtype: torch.dtype, *shape: int) -> Tensor:
    """The memory at an address, as a tensor."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    memory = (ctypes.c_byte * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class _Rows:
    def __init__(self, num_rows: int, num_entries: int, row_pointers: int, columns: int, permutation: int = 0) -> None:
        pointers = _at(row_pointers, torch.int64, num_rows + 1)
        self.num_rows = num_rows
        self.rows = torch.repeat_interleave(torch.arange(num_rows), pointers.diff())
        self.columns = _at(columns, torch.int32, num_entries).long()
        self.order = torch.arange(num_entries)
        if permutation:
            self.order = _at(permutation, torch.int32, num_entries).long()


def _features(address: int, dtype: torch.dtype, rows: Tensor, batch: int) -> Tensor:
    count = int(rows.max()) + 1 if rows.numel() else 0
    return _at(address, dtype, count, batch).double()


class _StandIn:
    """The core's two functions, by loops of torch; remembers which were called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def multiply(
        self, device_index: int, rows: _Rows, values: int, value_type: _core.ValueType, features: int,
        type: _core.ValueType, batch: int, bias: int, out: int, stream: int,
    ) -> None:  # fmt: skip
        self.called.append("multiply")
        weights = _at(values, _TYPES[value_type], rows.order.numel())[rows.order].double()
        dense = _features(features, _TYPES[type], rows.columns, batch)
        sums = torch.zeros(rows.num_rows, batch, dtype=torch.float64)
        if bias:
            sums += _at(bias, _TYPES[value_type], rows.num_rows).double()[:, None]
        sums.index_add_(0, rows.rows, weights[:, None] * dense[rows.columns])
        _at(out, _TYPES[type], rows.num_rows, batch).copy_(sums)

    def gradient(
        self, device_index: int, rows: _Rows, features: int, type: _core.ValueType, batch: int,
        output_gradient: int, gradient: int, value_type: _core.ValueType, stream: int,
    ) -> None:  # fmt: skip
        self.called.append("gradient")
        x = _features(features, _TYPES[type], rows.columns, batch)
        g = _features(output_gradient, _TYPES[type], rows.rows, batch)
        sums = (g[rows.rows] * x[rows.columns]).sum(1)
        _at(gradient, _TYPES[value_type], rows.order.numel()).copy_(sums)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> _StandIn:
    there = _StandIn()
    monkeypatch.setattr(_core, "DeviceSparseRows", _Rows)
    monkeypatch.setattr(_core, "device_sparse_multiply", there.multiply)
    monkeypatch.setattr(_core, "device_sparse_gradient", there.gradient)
    return there


def _case(dtype: torch.dtype, batch: int = 9) -> tuple[SparsePattern, Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(23, 31, generator=generator) < 0.2
    mask[4] = False
    mask[:, 7] = False
    dense = torch.randn(23, 31, generator=generator, dtype=torch.float64) * mask
    values = dense[mask].to(dtype)
    bias = torch.randn(23, generator=generator, dtype=torch.float64).to(dtype)
    x = torch.randn(batch, 31, generator=generator, dtype=torch.float64).to(dtype)
    gradient = torch.randn(batch, 23, generator=generator, dtype=torch.float64).to(dtype)
    return SparsePattern.from_mask(mask), dense.to(dtype), values, bias, x, gradient


# One rounding of the result, of numbers up to about ten.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}


@pytest.mark.parametrize("dtype", list(_TOLERANCE))
def test_products_are_the_dense_ones(stand_in: _StandIn, dtype: torch.dtype) -> None:
    pattern, dense, values, bias, x, gradient = _case(dtype)
    wide = dense.double()
    close = {"rtol": 0.0, "atol": _TOLERANCE[dtype]}
    y = device_kernels.linear_forward(pattern, values, bias, x)
    assert y.dtype == dtype
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), x.double() @ wide.t() + bias.double(), **close)
    of_x, of_values, of_bias = device_kernels.linear_backward(pattern, values, x, gradient, True, True, True)
    torch.testing.assert_close(of_x.double(), gradient.double() @ wide, **close)
    of_weight = (gradient.double().t() @ x.double()).flatten()[pattern.positions()]
    torch.testing.assert_close(of_values.double(), of_weight, **close)
    torch.testing.assert_close(of_bias.double(), gradient.double().sum(0), **close)
    assert (of_x.dtype, of_values.dtype, of_bias.dtype) == (dtype, dtype, dtype)


def test_operands_may_have_gaps(stand_in: _StandIn) -> None:
    pattern, dense, values, bias, x, gradient = _case(torch.float64)
    spread = torch.stack([values, values], 1)[:, 0]
    of_x, _, _ = device_kernels.linear_backward(pattern, spread, x.t().contiguous().t(), gradient, True, False, False)
    torch.testing.assert_close(of_x, gradient @ dense)
    y = device_kernels.linear_forward(pattern, spread, torch.stack([bias, bias], 1)[:, 1], x.t().contiguous().t())
    torch.testing.assert_close(y, x @ dense.t() + bias)


def test_only_the_gradients_asked_for_are_formed(stand_in: _StandIn) -> None:
    pattern, _, values, _, x, gradient = _case(torch.float32)
    found = device_kernels.linear_backward(pattern, values, x, gradient, False, False, True)
    assert stand_in.called == []
    assert [tensor.numel() for tensor in found] == [0, 0, 23]
    found = device_kernels.linear_backward(pattern, values, x, gradient, False, True, False)
    assert stand_in.called == ["gradient"]
    assert [tensor.numel() for tensor in found] == [0, values.numel(), 0]
    found = device_kernels.linear_backward(pattern, values, x, gradient, True, False, False)
    assert stand_in.called == ["gradient", "multiply"]
    assert [tensor.numel() for tensor in found] == [x.numel(), 0, 0]


def test_an_empty_batch_has_zero_gradients(stand_in: _StandIn) -> None:
    pattern, _, values, bias, x, gradient = _case(torch.float32, batch=0)
    assert device_kernels.linear_forward(pattern, values, bias, x).shape == (0, 23)
    of_x, of_values, of_bias = device_kernels.linear_backward(pattern, values, x, gradient, True, True, True)
    assert of_x.shape == (0, 31)
    assert not of_values.any()
    assert not of_bias.any()


def test_indices_are_uploaded_once(stand_in: _StandIn) -> None:
    pattern, _, values, bias, x, gradient = _case(torch.float32)
    device_kernels.linear_forward(pattern, values, bias, x)
    device_kernels.linear_backward(pattern, values, x, gradient, True, True, True)
    before = dict(pattern.kernel_cache)
    device_kernels.linear_forward(pattern, values, bias, x)
    device_kernels.linear_backward(pattern, values, x, gradient, True, True, True)
    assert all(pattern.kernel_cache[key] is entry for key, entry in before.items())
    assert pattern.kernel_cache.keys() == before.keys()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(_TOLERANCE))
def test_a_layer_on_a_gpu_computes_what_it_computes_on_the_cpu(dtype: torch.dtype) -> None:
    layer = SparseLinear(300, 170, sparsity=0.9, seed=1).to(dtype)
    x = torch.randn(65, 300, dtype=dtype)
    results = []
    for device in ("cpu", "cuda"):
        layer = layer.to(device)
        layer.zero_grad()
        own = x.to(device).requires_grad_()
        y = layer(own)
        y.square().sum().backward()
        assert own.grad is not None
        assert layer.values.grad is not None
        results.append([tensor.detach().cpu().double() for tensor in (y, own.grad, layer.values.grad)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(
            on_gpu, on_cpu, rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=_TOLERANCE[dtype]
        )


@pytest.mark.gpu
def test_convolutions_are_refused_on_a_gpu() -> None:
    layer = SparseConv2d(4, 8, 3, sparsity=0.5, seed=1).to("cuda")
    with pytest.raises(ValueError, match="run on the CPU only"):
        layer(torch.randn(1, 4, 8, 8, device="cuda"))


def test_topology_updates_away_from_the_cpu_are_refused_by_name() -> None:
    layer = SparseLinear(8, 6, sparsity=0.5, seed=1).to("meta")
    layers: Any = [SimpleNamespace(module=layer, is_compressed=True, name="0")]
    state: Any = SimpleNamespace(optimizer=None)
    with pytest.raises(ValueError, match="layer '0' is on meta"):
        make_topology(layers, state, 0)
    with pytest.raises(ValueError, match="the scores are on meta"):
        layer.keep_all_but_smallest(1, TieKeys(0, 0, 0, 0))


def test_a_core_that_sees_no_gpu_says_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    rows = _core.DeviceSparseRows(1, 0, 0, 0)
    kind = _core.ValueType.FLOAT32
    with pytest.raises(_core.BackendUnavailableError, match="CUDA"):
        _core.device_sparse_multiply(0, rows, 0, kind, 0, kind, 1, 0, 0, 0)
    with pytest.raises(_core.BackendUnavailableError, match="CUDA"):
        _core.device_sparse_gradient(0, rows, 0, kind, 1, 0, 0, kind, 0)
