"""A convolution's products: indices for an image size and layout, choice of layout, one call of the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from itop import _core
from itop.nn.derived_indices import (
    DerivedIndices,
    address,
    batch_class,
    block,
    density_class,
    empty_gradients,
    value_type,
)
from itop.nn.layouts import ConvolutionLayout, choose
from itop.nn.lent_memory import lent_tensor
from itop.nn.pattern import SparsePattern

_MAX_PLANS = 8
"""Image sizes whose indices a convolution keeps."""


_ImageSize: TypeAlias = tuple[int, int]


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


@final
@dataclass(frozen=True, slots=True)
class _Plan(DerivedIndices):
    """A convolution's indices for one image size and layout."""

    native: _core.ConvolutionPattern
    borrowed: tuple[Tensor, ...]
    out_size: _ImageSize

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.borrowed


_IS_BLOCKED = {
    ConvolutionLayout.POSITIONS: False,
    ConvolutionLayout.POSITIONS_BLOCKED: True,
    ConvolutionLayout.EIGHT_IMAGES: False,
    ConvolutionLayout.EIGHT_IMAGES_BLOCKED: True,
}

_POSITIONS = (ConvolutionLayout.POSITIONS, ConvolutionLayout.POSITIONS_BLOCKED)

_FIRST_LEVEL_BYTES = 48 << 10
_TILE_WIDTH = 14
"""The most positions of a row that the core takes together; each is 32 bytes of eight images."""

_ENTRIES_OF_A_ROW = 12
"""In a block of channels; from 7x7 to 28x28, 90 to 98 % sparse, so many are within 3 % of the fastest block."""


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
    # A row with fewer entries in a block spends its time on beginning and ending.
    worthwhile = _ENTRIES_OF_A_ROW * channels * pattern.shape[0] // max(1, pattern.num_active)
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
    nothing = _core.SparsePattern(0, 0, 1, 0, 0)
    if backward:
        plane_pointers = torch.empty(shape.num_planes + 1, dtype=torch.int64)
        out_channels, permutation = torch.empty_like(columns), torch.empty_like(columns)
        _core.sparse_convolution_transpose(
            shape,
            planes,
            pointers.data_ptr(),
            columns.data_ptr(),
            plane_pointers.data_ptr(),
            out_channels.data_ptr(),
            permutation.data_ptr(),
            shifts.data_ptr(),
        )
        blocks = block(
            (shape.num_planes, geometry.out_channels), plane_pointers, out_channels, channels, permutation, shifts
        )
        native = _core.ConvolutionPattern(shape, planes, nothing, blocks.native)
    else:
        _core.sparse_convolution_shifts(shape, planes, pointers.data_ptr(), columns.data_ptr(), shifts.data_ptr())
        blocks = block(pattern.shape, pointers, columns, channels * area, offsets=shifts)
        native = _core.ConvolutionPattern(shape, planes, blocks.native, nothing)
    plan = _Plan(native, blocks.tensors, (shape.out_height, shape.out_width))
    plans = [entry for place, entry in pattern.kernel_cache.items() if place[0] == "plan"]
    if len(plans) >= _MAX_PLANS:
        for place in [place for place, entry in pattern.kernel_cache.items() if entry is plans[0]]:
            del pattern.kernel_cache[place]
    pattern.kernel_cache[key] = plan
    return plan


def _chosen_plan(
    pattern: SparsePattern,
    geometry: ConvolutionGeometry,
    x: Tensor,
    backward: bool,
    run: Callable[[_Plan], object],
) -> _Plan:
    _, _, height, width = x.shape
    key = ("chosen plan", geometry, height, width, batch_class(x.shape[0]), x.dtype, backward)
    known: _Plan | None = pattern.kernel_cache.get(key)
    if known is None:
        layout = _layout(pattern, geometry, x, backward, run)
        known = pattern.kernel_cache[key] = _plan(pattern, geometry, (height, width), layout, backward)
    return known


def _layout(
    pattern: SparsePattern,
    geometry: ConvolutionGeometry,
    x: Tensor,
    backward: bool,
    run: Callable[[_Plan], object],
) -> ConvolutionLayout:
    size = (x.shape[2], x.shape[3])
    key = ("convolution", geometry, size, batch_class(x.shape[0]), x.dtype, backward)
    known: ConvolutionLayout | None = pattern.kernel_cache.get(key)
    if known is not None:
        return known
    candidates = list(ConvolutionLayout)
    pointwise = geometry.kernel_size == (1, 1)
    in_place = pointwise and geometry.stride == (1, 1) and geometry.padding == (0, 0)
    # Of fewer than four images most of the eight interleaved would be padding; pointwise convolutions of large images
    # are read in place, where the memory of interleaved ones would push other layers out of the cache.
    if x.shape[0] < 4 or (in_place and size[0] * size[1] > 256):
        candidates = list(_POSITIONS)
    channels = geometry.in_channels // geometry.groups
    candidates = [
        layout
        for layout in candidates
        if not _IS_BLOCKED[layout] or _block_channels(pattern, geometry, size, layout) < channels
    ]
    # Larger images leave the cache when eight of them are interleaved.
    small = size[0] * size[1] <= (64 if pointwise else 256)
    default = ConvolutionLayout.POSITIONS
    if small and ConvolutionLayout.EIGHT_IMAGES in candidates:
        blocked = ConvolutionLayout.EIGHT_IMAGES_BLOCKED
        default = blocked if blocked in candidates else ConvolutionLayout.EIGHT_IMAGES
    known = choose(
        f"convolution {'backward' if backward else 'forward'} {geometry} {size} density {density_class(pattern)} "
        f"batch {batch_class(x.shape[0])} {x.dtype}",
        candidates,
        pattern.num_active * x.shape[0] * size[0] * size[1] // (geometry.stride[0] * geometry.stride[1]),
        default,
        lambda layout: run(_plan(pattern, geometry, size, layout, backward)),
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

    def run(plan: _Plan) -> Tensor:
        y = lent_tensor((x.shape[0], geometry.out_channels, *plan.out_size), x.dtype)
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
        return y

    return run(_chosen_plan(pattern, geometry, x, False, run))


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

    def run(plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, grad_values, grad_bias = empty_gradients(
            x, values, geometry.out_channels, needs_x, needs_values, needs_bias
        )
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
        return grad_x, grad_values, grad_bias

    return run(_chosen_plan(pattern, geometry, x, True, run))
