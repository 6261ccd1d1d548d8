"""A linear layer's products: choice of blocks, one call of the core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from itop import _core
from itop.nn.derived_indices import (
    Blocked,
    address,
    batch_class,
    block,
    density_class,
    empty_gradients,
    in_column_order,
    value_type,
)
from itop.nn.layouts import BlockSize, InputGradient, choose
from itop.nn.lent_memory import lent_tensor
from itop.nn.pattern import SparsePattern

_BLOCK_BYTES_AND_TILE = {
    BlockSize.SECOND_LEVEL: (256 << 10, 128),
    BlockSize.NARROW_TILES: (512 << 10, 32),
    BlockSize.LAST_LEVEL: (2 << 20, 32),
    BlockSize.WHOLE: (1 << 62, 32),
}
"""How much of the dense operand a block reads, and how many samples at a time the core then takes."""


def _block_width(num_columns: int, density: float, batch: int, itemsize: int, size: BlockSize) -> int:
    size_in_bytes, tile = _BLOCK_BYTES_AND_TILE[size]
    # A row with fewer than eight entries in a block spends its time on beginning and ending.
    width = max(size_in_bytes // (min(tile, batch_class(batch)) * itemsize), int(8 / max(density, 1e-9)))
    return min(width, num_columns)


def _linear_blocks(pattern: SparsePattern, batch: int, itemsize: int, size: BlockSize, transposed: bool) -> Blocked:
    density = pattern.num_active / max(1, pattern.numel)
    rows, columns = pattern.shape
    width = _block_width(rows if transposed else columns, density, batch, itemsize, size)
    key = ("blocks", transposed, width)
    known: Blocked | None = pattern.kernel_cache.get(key)
    if known is None:
        if transposed:
            other = in_column_order(pattern)
            known = block((columns, rows), other.pointers, other.rows, width, other.permutation)
        else:
            known = block(pattern.shape, pattern.row_pointers, pattern.columns, width)
        pattern.kernel_cache[key] = known
    return known


def _scatter_blocks(pattern: SparsePattern, batch: int, itemsize: int) -> Blocked:
    """Narrow enough that every thread owns some columns."""
    density = pattern.num_active / max(1, pattern.numel)
    columns = pattern.shape[1]
    width = min(
        _block_width(columns, density, batch, itemsize, BlockSize.SECOND_LEVEL),
        -(-columns // (2 * _core.num_threads())),
    )
    key = ("blocks", False, max(1, width))
    known: Blocked | None = pattern.kernel_cache.get(key)
    if known is None:
        known = pattern.kernel_cache[key] = block(pattern.shape, pattern.row_pointers, pattern.columns, max(1, width))
    return known


def _distinct_sizes(pattern: SparsePattern, batch: int, itemsize: int) -> list[BlockSize]:
    density = pattern.num_active / max(1, pattern.numel)
    widths = {_block_width(pattern.shape[1], density, batch, itemsize, size): size for size in reversed(BlockSize)}
    return sorted(widths.values(), key=list(BlockSize).index)


def linear_forward(pattern: SparsePattern, values: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """``x W^T + bias`` for contiguous ``x [batch, in]``."""
    batch = x.shape[0]
    y = lent_tensor((batch, pattern.shape[0]), x.dtype)
    wide = values.element_size() if values.dtype == torch.float64 else 4

    def run(size: BlockSize) -> None:
        blocks = _linear_blocks(pattern, batch, wide, size, False)
        _core.sparse_linear_forward(
            blocks.native,
            values.data_ptr(),
            value_type(values),
            x.data_ptr(),
            value_type(x),
            batch,
            address(bias),
            y.data_ptr(),
        )

    run(_forward_choice(pattern, batch, wide, x.dtype, run))
    return y


def _forward_choice(pattern: SparsePattern, batch: int, wide: int, dtype: torch.dtype, run: Any) -> BlockSize:
    key = ("linear forward", batch_class(batch), dtype)
    known: BlockSize | None = pattern.kernel_cache.get(key)
    if known is None:
        candidates = _distinct_sizes(pattern, batch, wide)
        # Many entries are better read once for all samples than once for every 32 of them.
        is_dense = pattern.num_active > pattern.numel * 0.15
        default = BlockSize.SECOND_LEVEL if is_dense else BlockSize.NARROW_TILES
        known = choose(
            f"linear forward {pattern.shape[0]}x{pattern.shape[1]} density {density_class(pattern)} "
            f"batch {batch_class(batch)} {dtype}",
            candidates,
            pattern.num_active * batch,
            default if default in candidates else candidates[0],
            run,
        )
        pattern.kernel_cache[key] = known
        _forget_other_blocks(pattern, _linear_blocks(pattern, batch, wide, known, False))
    return known


def _forget_other_blocks(pattern: SparsePattern, chosen: Blocked) -> None:
    """Frees what a measurement made and nobody uses."""
    for key, entry in list(pattern.kernel_cache.items()):
        if isinstance(entry, Blocked) and entry is not chosen and key[1] is False:
            del pattern.kernel_cache[key]


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
    batch, wide = x.shape[0], (8 if values.dtype == torch.float64 else 4)
    grad_x, grad_values, grad_bias = empty_gradients(x, values, pattern.shape[0], needs_x, needs_values, needs_bias)

    def run(way: InputGradient | None, only_input: bool = False) -> None:
        other = None
        if way is InputGradient.TRANSPOSED:
            other = _linear_blocks(pattern, batch, wide, _known_size(pattern, batch, x.dtype), True).native
        if way is InputGradient.ROW_ORDER:
            own = _scatter_blocks(pattern, batch, wide)
        else:
            own = _linear_blocks(pattern, batch, wide, _known_size(pattern, batch, x.dtype), False)
        _core.sparse_linear_backward(
            own.native,
            other,
            values.data_ptr(),
            value_type(values),
            x.data_ptr(),
            gradient.data_ptr(),
            value_type(x),
            batch,
            grad_x.data_ptr() if way is not None else 0,
            grad_values.data_ptr() if needs_values and not only_input else 0,
            grad_bias.data_ptr() if needs_bias and not only_input else 0,
        )

    if not needs_x:
        if needs_values or needs_bias:
            run(None)
        return grad_x, grad_values, grad_bias
    key = ("linear input gradient", batch_class(batch), x.dtype)
    way: InputGradient | None = pattern.kernel_cache.get(key)
    if way is None:
        # A second set of indices costs more memory than it is worth where a handful of samples pass.
        few = batch <= 8
        way = choose(
            f"linear input gradient {pattern.shape[0]}x{pattern.shape[1]} density {density_class(pattern)} "
            f"batch {batch_class(batch)} {x.dtype}",
            [InputGradient.ROW_ORDER] if few else list(InputGradient),
            pattern.num_active * batch,
            InputGradient.TRANSPOSED,
            lambda candidate: run(candidate, only_input=True),
        )
        pattern.kernel_cache[key] = way
    if way is InputGradient.ROW_ORDER and (needs_values or needs_bias):
        # The two gradients like different blocks; packing twice costs less than the wrong ones.
        run(way, only_input=True)
        run(None)
    else:
        run(way)
    return grad_x, grad_values, grad_bias


def _known_size(pattern: SparsePattern, batch: int, dtype: torch.dtype) -> BlockSize:
    known: BlockSize = pattern.kernel_cache.get(("linear forward", batch_class(batch), dtype), BlockSize.SECOND_LEVEL)
    return known
