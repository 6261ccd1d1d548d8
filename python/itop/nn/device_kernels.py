"""The products of truly sparse linear layers on a GPU: indices on the device, features before samples.

The kernels read neighbouring samples of one feature, so dense operands are transposed on their way in and out: one pass
over each, where a product passes over them once for every active weight of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itop import _core
from itop.nn.derived_indices import address, in_column_order, value_type
from itop.nn.pattern import SparsePattern


@dataclass(frozen=True, slots=True)
class _DeviceRows:
    """A native view of indices on a device, and the tensors it borrows."""

    native: _core.DeviceSparseRows
    tensors: tuple[Tensor, ...]


def linear_forward(pattern: SparsePattern, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """``x W^T + bias`` for ``x [batch, in]``, on the device of ``x``."""
    return _multiply(_rows(pattern, x.device), pattern.shape[0], values, bias, x)


def linear_backward(
    pattern: SparsePattern,
    values: Tensor,
    x: Tensor,
    gradient: Tensor,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the values and the bias; what is not needed is an empty tensor."""
    grad_x, grad_values, grad_bias = x.new_empty(0), values.new_empty(0), values.new_empty(0)
    if needs_x:
        grad_x = _multiply(_transposed_rows(pattern, x.device), pattern.shape[1], values, None, gradient)
    if needs_values:
        features, of_output = x.t().contiguous(), gradient.t().contiguous()
        grad_values = torch.empty_like(values, memory_format=torch.contiguous_format)
        _core.device_sparse_gradient(
            _index(x.device),
            _rows(pattern, x.device).native,
            features.data_ptr(),
            value_type(features),
            x.shape[0],
            of_output.data_ptr(),
            grad_values.data_ptr(),
            value_type(grad_values),
            _stream(x.device),
        )
    if needs_bias:
        # Sums of bfloat16 are rounded once, at their end.
        wide = torch.float32 if gradient.dtype == torch.bfloat16 else gradient.dtype
        grad_bias = gradient.sum(0, dtype=wide).to(values.dtype)
    return grad_x, grad_values, grad_bias


def _multiply(rows: _DeviceRows, num_rows: int, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    batch, features = x.shape[0], x.t().contiguous()
    values, bias = values.contiguous(), None if bias is None else bias.contiguous()
    out = x.new_empty(num_rows, batch)
    _core.device_sparse_multiply(
        _index(x.device),
        rows.native,
        values.data_ptr(),
        value_type(values),
        features.data_ptr(),
        value_type(features),
        batch,
        address(bias),
        out.data_ptr(),
        _stream(x.device),
    )
    return out.t().contiguous()


def _rows(pattern: SparsePattern, device: torch.device) -> _DeviceRows:
    key = ("device rows", device)
    known: _DeviceRows | None = pattern.kernel_cache.get(key)
    if known is None:
        known = _upload(pattern.shape[0], device, pattern.row_pointers, pattern.columns, None)
        pattern.kernel_cache[key] = known
    return known


def _transposed_rows(pattern: SparsePattern, device: torch.device) -> _DeviceRows:
    key = ("device columns", device)
    known: _DeviceRows | None = pattern.kernel_cache.get(key)
    if known is None:
        other = in_column_order(pattern)
        known = _upload(pattern.shape[1], device, other.pointers, other.rows, other.permutation)
        pattern.kernel_cache[key] = known
    return known


def _upload(
    num_rows: int, device: torch.device, pointers: Tensor, columns: Tensor, permutation: Tensor | None
) -> _DeviceRows:
    there = [tensor.to(device) for tensor in (pointers, columns, permutation) if tensor is not None]
    native = _core.DeviceSparseRows(num_rows, columns.numel(), *(tensor.data_ptr() for tensor in there))
    return _DeviceRows(native, tuple(there))


def _index(device: torch.device) -> int:
    return 0 if device.index is None else device.index


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
