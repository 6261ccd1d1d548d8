"""From a pattern and tensors to the core: derived indices, choice of layout, one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from itop import _core
from itop.nn.layouts import BlockSize, ConvolutionLayout, InputGradient, choose
from itop.nn.lent_memory import lent_tensor
from itop.nn.pattern import SparsePattern

_VALUE_TYPES = {
    torch.float32: _core.ValueType.FLOAT32,
    torch.float64: _core.ValueType.FLOAT64,
    torch.bfloat16: _core.ValueType.BFLOAT16,
}

_MAX_PLANS = 8
"""Image sizes whose indices a convolution keeps."""

_BLOCK_BYTES_AND_TILE = {
    BlockSize.SECOND_LEVEL: (256 << 10, 128),
    BlockSize.NARROW_TILES: (512 << 10, 32),
    BlockSize.LAST_LEVEL: (2 << 20, 32),
    BlockSize.WHOLE: (1 << 62, 32),
}
"""How much of the dense operand a block reads, and how many samples at a time the core then takes."""


def value_type(tensor: Tensor) -> _core.ValueType:
    """Raises:
    TypeError: If the type is none that the kernels compute with.
    """
    found = _VALUE_TYPES.get(tensor.dtype)
    if found is None:
        raise TypeError(f"sparse layers compute in float32, float64 or bfloat16, got {tensor.dtype}")
    return found


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# --- indices in blocks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Blocked:
    """A native pattern and the tensors it borrows."""

    native: _core.SparsePattern
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class ColumnOrder:
    """A pattern's entries in column order."""

    pointers: Tensor
    rows: Tensor
    permutation: Tensor


def cached_bytes(pattern: SparsePattern) -> int:
    """Memory of derived indices."""
    seen: dict[int, int] = {}
    for entry in pattern.kernel_cache.values():
        for tensor in _tensors(entry):
            seen[tensor.data_ptr()] = tensor.nbytes
    own = {pattern.columns.data_ptr(), pattern.row_pointers.data_ptr()}
    return sum(size for place, size in seen.items() if place not in own)


def _tensors(entry: object) -> tuple[Tensor, ...]:
    if isinstance(entry, _Blocked):
        return entry.tensors
    if isinstance(entry, ColumnOrder):
        return (entry.pointers, entry.rows, entry.permutation)
    if isinstance(entry, _Plan):
        return entry.tensors
    return ()


def _block(
    shape: tuple[int, int],
    pointers: Tensor,
    columns: Tensor,
    width: int,
    permutation: Tensor | None = None,
    offsets: Tensor | None = None,
) -> _Blocked:
    """Block starts by ``columns``; kernels then read ``offsets`` where given."""
    rows, num_columns = shape
    width = max(1, min(width, num_columns))
    num_blocks = max(1, -(-num_columns // width))
    starts = torch.empty(num_blocks + 1, rows, dtype=torch.int32)
    _core.sparse_block_starts(rows, num_columns, pointers.data_ptr(), columns.data_ptr(), width, starts.data_ptr())
    kept = columns if offsets is None else offsets
    native = _core.SparsePattern(rows, num_columns, width, starts.data_ptr(), kept.data_ptr(), address(permutation))
    return _Blocked(native, (starts, kept) if permutation is None else (starts, kept, permutation))


def in_column_order(pattern: SparsePattern) -> ColumnOrder:
    known: ColumnOrder | None = pattern.kernel_cache.get("transposed")
    if known is None:
        rows, columns = pattern.shape
        known = ColumnOrder(
            torch.empty(columns + 1, dtype=torch.int64),
            torch.empty(pattern.num_active, dtype=torch.int32),
            torch.empty(pattern.num_active, dtype=torch.int32),
        )
        _core.sparse_transpose(
            rows,
            columns,
            pattern.row_pointers.data_ptr(),
            pattern.columns.data_ptr(),
            known.pointers.data_ptr(),
            known.rows.data_ptr(),
            known.permutation.data_ptr(),
        )
        pattern.kernel_cache["transposed"] = known
    return known


# --- linear -------------------------------------------------------------------------------------------------------------


def _batch_class(batch: int) -> int:
    """Batches that share a choice: powers of two."""
    return 1 << max(0, batch - 1).bit_length()


def _density_class(pattern: SparsePattern) -> str:
    return f"{pattern.num_active / max(1, pattern.numel):.1e}"


def _block_width(num_columns: int, density: float, batch: int, itemsize: int, size: BlockSize) -> int:
    size_in_bytes, tile = _BLOCK_BYTES_AND_TILE[size]
    # A row with fewer than eight entries in a block spends its time on beginning and ending.
    width = max(size_in_bytes // (min(tile, _batch_class(batch)) * itemsize), int(8 / max(density, 1e-9)))
    return min(width, num_columns)


def _linear_blocks(pattern: SparsePattern, batch: int, itemsize: int, size: BlockSize, transposed: bool) -> _Blocked:
    density = pattern.num_active / max(1, pattern.numel)
    rows, columns = pattern.shape
    width = _block_width(rows if transposed else columns, density, batch, itemsize, size)
    key = ("blocks", transposed, width)
    known: _Blocked | None = pattern.kernel_cache.get(key)
    if known is None:
        if transposed:
            other = in_column_order(pattern)
            known = _block((columns, rows), other.pointers, other.rows, width, other.permutation)
        else:
            known = _block(pattern.shape, pattern.row_pointers, pattern.columns, width)
        pattern.kernel_cache[key] = known
    return known


def _scatter_blocks(pattern: SparsePattern, batch: int, itemsize: int) -> _Blocked:
    """Narrow enough that every thread owns some columns."""
    density = pattern.num_active / max(1, pattern.numel)
    columns = pattern.shape[1]
    width = min(
        _block_width(columns, density, batch, itemsize, BlockSize.SECOND_LEVEL),
        -(-columns // (2 * _core.num_threads())),
    )
    key = ("blocks", False, max(1, width))
    known: _Blocked | None = pattern.kernel_cache.get(key)
    if known is None:
        known = pattern.kernel_cache[key] = _block(pattern.shape, pattern.row_pointers, pattern.columns, max(1, width))
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
    key = ("linear forward", _batch_class(batch), dtype)
    known: BlockSize | None = pattern.kernel_cache.get(key)
    if known is None:
        candidates = _distinct_sizes(pattern, batch, wide)
        # Many entries are better read once for all samples than once for every 32 of them.
        is_dense = pattern.num_active > pattern.numel * 0.15
        default = BlockSize.SECOND_LEVEL if is_dense else BlockSize.NARROW_TILES
        known = choose(
            f"linear forward {pattern.shape[0]}x{pattern.shape[1]} density {_density_class(pattern)} "
            f"batch {_batch_class(batch)} {dtype}",
            candidates,
            pattern.num_active * batch,
            default if default in candidates else candidates[0],
            run,
        )
        pattern.kernel_cache[key] = known
        _forget_other_blocks(pattern, _linear_blocks(pattern, batch, wide, known, False))
    return known


def _forget_other_blocks(pattern: SparsePattern, chosen: _Blocked) -> None:
    """Frees what a measurement made and nobody uses."""
    for key, entry in list(pattern.kernel_cache.items()):
        if isinstance(entry, _Blocked) and entry is not chosen and key[1] is False:
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
    grad_x = lent_tensor(x.shape if needs_x else (0,), x.dtype)
    grad_values = lent_tensor(values.shape if needs_values else (0,), values.dtype)
    grad_bias = values.new_empty(pattern.shape[0] if needs_bias else 0)

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
    key = ("linear input gradient", _batch_class(batch), x.dtype)
    way: InputGradient | None = pattern.kernel_cache.get(key)
    if way is None:
        # A second set of indices costs more memory than it is worth where a handful of samples pass.
        few = batch <= 8
        way = choose(
            f"linear input gradient {pattern.shape[0]}x{pattern.shape[1]} density {_density_class(pattern)} "
            f"batch {_batch_class(batch)} {x.dtype}",
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
    known: BlockSize = pattern.kernel_cache.get(("linear forward", _batch_class(batch), dtype), BlockSize.SECOND_LEVEL)
    return known


# --- convolution --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConvolutionGeometry:
    """A 2-D convolution without its image size; pairs are (height, width)."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def native(self, height: int, width: int) -> _core.ConvolutionShape:
        return _core.ConvolutionShape(
            self.in_channels,
            self.out_channels,
            self.groups,
            height,
            width,
            *self.kernel_size,
            *self.stride,
            *self.padding,
            *self.dilation,
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """A convolution's indices for one image size and layout."""

    native: _core.ConvolutionPattern
    tensors: tuple[Tensor, ...]


_IS_BLOCKED = {
    ConvolutionLayout.POSITIONS: False,
    ConvolutionLayout.POSITIONS_BLOCKED: True,
    ConvolutionLayout.EIGHT_IMAGES: False,
    ConvolutionLayout.EIGHT_IMAGES_BLOCKED: True,
}

_POSITIONS = (ConvolutionLayout.POSITIONS, ConvolutionLayout.POSITIONS_BLOCKED)

_ImageSize: TypeAlias = tuple[int, int]

_FIRST_LEVEL_BYTES = 48 << 10
_TILE_WIDTH = 14
"""The most positions of a row that the core takes together; each is 32 bytes of eight images."""


def _block_channels(
    pattern: SparsePattern, geometry: ConvolutionGeometry, size: _ImageSize, layout: ConvolutionLayout
) -> int:
    """Channels that are read before moving on: what the first-level cache nearly holds."""
    channels = geometry.in_channels // geometry.groups
    if not _IS_BLOCKED[layout]:
        return channels
    if layout in _POSITIONS:
        return 32
    height, width = geometry.kernel_size
    in_cache = _FIRST_LEVEL_BYTES // (height * (min(size[1], _TILE_WIDTH) + width - 1) * 32)
    # A row with fewer than five entries in a block spends its time on beginning and ending.
    worthwhile = 5 * channels * pattern.shape[0] // max(1, pattern.num_active)
    return max(1, in_cache, worthwhile)


def _plan(
    pattern: SparsePattern, geometry: ConvolutionGeometry, size: _ImageSize, layout: ConvolutionLayout, backward: bool
) -> _Plan:
    key = ("plan", geometry, size, layout, backward)
    known: _Plan | None = pattern.kernel_cache.get(key)
    if known is not None:
        return known
    shape = geometry.native(*size)
    planes = _core.PlaneLayout.POSITIONS if layout in _POSITIONS else _core.PlaneLayout.INTERLEAVED
    channels = _block_channels(pattern, geometry, size, layout)
    pointers, columns = pattern.row_pointers, pattern.columns
    area = geometry.kernel_size[0] * geometry.kernel_size[1]
    shifts = torch.empty_like(columns)
    _core.sparse_convolution_shifts(shape, planes, pointers.data_ptr(), columns.data_ptr(), shifts.data_ptr())
    forward = _block(pattern.shape, pointers, columns, channels * area, offsets=shifts)
    transposed = forward
    if backward:
        plane_pointers = torch.empty(shape.num_planes + 1, dtype=torch.int64)
        out_channels, permutation, back_shifts = (torch.empty_like(columns) for _ in range(3))
        _core.sparse_convolution_transpose(
            shape,
            planes,
            pointers.data_ptr(),
            columns.data_ptr(),
            plane_pointers.data_ptr(),
            out_channels.data_ptr(),
            permutation.data_ptr(),
            back_shifts.data_ptr(),
        )
        transposed = _block(
            (shape.num_planes, geometry.out_channels), plane_pointers, out_channels, channels, permutation, back_shifts
        )
    native = _core.ConvolutionPattern(shape, planes, forward.native, transposed.native)
    plan = _Plan(native, (*forward.tensors, *transposed.tensors))
    plans = [entry for entry in pattern.kernel_cache if entry[0] == "plan"]
    if len(plans) >= _MAX_PLANS:
        del pattern.kernel_cache[plans[0]]
    pattern.kernel_cache[key] = plan
    return plan


def _convolution_choice(
    pattern: SparsePattern, geometry: ConvolutionGeometry, x: Tensor, backward: bool, run: Any
) -> ConvolutionLayout:
    size = (x.shape[2], x.shape[3])
    key = ("convolution", geometry, size, _batch_class(x.shape[0]), x.dtype, backward)
    known: ConvolutionLayout | None = pattern.kernel_cache.get(key)
    if known is not None:
        return known
    candidates = list(ConvolutionLayout)
    if x.shape[0] < 4:
        candidates = list(_POSITIONS)  # most of the 8 interleaved images would be padding
    channels = geometry.in_channels // geometry.groups
    candidates = [
        layout
        for layout in candidates
        if not _IS_BLOCKED[layout] or _block_channels(pattern, geometry, size, layout) < channels
    ]
    # Larger images leave the cache when eight of them are interleaved; pointwise ones are read in place otherwise.
    small = size[0] * size[1] <= (64 if geometry.kernel_size == (1, 1) else 256)
    interleaved = small and ConvolutionLayout.EIGHT_IMAGES in candidates
    known = choose(
        f"convolution {'backward' if backward else 'forward'} {geometry} {size} density {_density_class(pattern)} "
        f"batch {_batch_class(x.shape[0])} {x.dtype}",
        candidates,
        pattern.num_active * x.shape[0] * size[0] * size[1] // (geometry.stride[0] * geometry.stride[1]),
        ConvolutionLayout.EIGHT_IMAGES if interleaved else ConvolutionLayout.POSITIONS,
        run,
    )
    for entry in list(pattern.kernel_cache):  # the losers' indices
        if entry[0] == "plan" and entry[2] == size and entry[4] == backward and entry[3] is not known:
            del pattern.kernel_cache[entry]
    pattern.kernel_cache[key] = known
    return known


def convolution_forward(
    pattern: SparsePattern, geometry: ConvolutionGeometry, values: Tensor, bias: Tensor | None, x: Tensor
) -> Tensor:
    """The convolution of contiguous ``x [batch, in, height, width]``, float32 or float64."""
    size = (x.shape[2], x.shape[3])
    shape = geometry.native(*size)
    y = lent_tensor((x.shape[0], geometry.out_channels, shape.out_height, shape.out_width), x.dtype)

    def run(layout: ConvolutionLayout) -> None:
        plan = _plan(pattern, geometry, size, layout, False)
        _core.sparse_convolution_forward(
            plan.native,
            values.data_ptr(),
            value_type(values),
            x.data_ptr(),
            value_type(x),
            x.shape[0],
            address(bias),
            y.data_ptr(),
        )

    run(_convolution_choice(pattern, geometry, x, False, run))
    return y


def convolution_backward(
    pattern: SparsePattern,
    geometry: ConvolutionGeometry,
    values: Tensor,
    x: Tensor,
    gradient: Tensor,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the values and the bias; what is not needed is an empty tensor."""
    size = (x.shape[2], x.shape[3])
    grad_x = lent_tensor(x.shape if needs_x else (0,), x.dtype)
    grad_values = lent_tensor(values.shape if needs_values else (0,), values.dtype)
    grad_bias = values.new_empty(geometry.out_channels if needs_bias else 0)

    def run(layout: ConvolutionLayout) -> None:
        plan = _plan(pattern, geometry, size, layout, True)
        _core.sparse_convolution_backward(
            plan.native,
            values.data_ptr(),
            value_type(values),
            x.data_ptr(),
            gradient.data_ptr(),
            value_type(x),
            x.shape[0],
            grad_x.data_ptr() if needs_x else 0,
            grad_values.data_ptr() if needs_values else 0,
            grad_bias.data_ptr() if needs_bias else 0,
        )

    run(_convolution_choice(pattern, geometry, x, True, run))
    return grad_x, grad_values, grad_bias


def chosen_layouts(pattern: SparsePattern) -> dict[str, str]:
    """What was chosen so far, in words: operator and batch (rounded up to a power of two) -> layout."""
    words: dict[str, str] = {}
    for key, entry in pattern.kernel_cache.items():
        if isinstance(entry, (BlockSize, InputGradient)):
            words[f"{key[0]}, batch {key[1]}"] = entry.value
        elif isinstance(entry, ConvolutionLayout):
            direction = "backward" if key[5] else "forward"
            words[f"convolution {direction}, {key[2][0]}x{key[2][1]} images, batch {key[3]}"] = entry.value
    return words
