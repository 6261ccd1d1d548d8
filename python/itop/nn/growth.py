"""Growth by gradient without a dense gradient: formed a few rows at a time, only the best candidates survive."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from itop import _core
from itop.nn.kernels import ConvolutionGeometry
from itop.nn.pattern import SparsePattern, TieKeys

__all__ = ["grow_candidates_by_gradient", "grow_convolution_candidates_by_gradient"]

_TILE_BYTES = 4 << 20
_NUM_SAMPLED = 1 << 16
_MARGIN = 1.3
"""How many more candidates than needed a guess of the smallest score lets through."""


def grow_candidates_by_gradient(
    x: Tensor, gradient: Tensor, k: int, exclude: SparsePattern, *, keys: TieKeys | None = None
) -> Tensor:
    """The ``k`` positions outside ``exclude`` with the largest ``|dL/dW|`` of a linear layer, exactly.

    Args:
        x: The layer's input ``[..., in]``.
        gradient: Of the loss with respect to its output ``[..., out]``.
        k: How many, at most the number of free positions.
        exclude: Positions that are never chosen, ``[out, in]``.
        keys: Order equal magnitudes: smaller key first, then lower index.

    Returns:
        int64 ``[k]``, ascending: row * in + column.

    Raises:
        NonFiniteError: If a candidate's gradient is NaN or infinite.
    """
    flat_x = x.detach().reshape(-1, x.shape[-1])
    flat_gradient = gradient.detach().reshape(-1, gradient.shape[-1])
    if (flat_gradient.shape[1], flat_x.shape[1]) != exclude.shape:
        raise ValueError(
            f"input and gradient have {flat_x.shape[1]} and {flat_gradient.shape[1]} features, not {exclude.shape}"
        )
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    flat_x, flat_gradient = flat_x.to(wide), flat_gradient.to(wide)
    transposed = flat_gradient.t()

    def rows_of_gradient(rows: slice, out: Tensor) -> Tensor:
        return torch.mm(transposed[rows], flat_x, out=out)

    return _stream(rows_of_gradient, k, exclude, wide, keys or TieKeys())


def grow_convolution_candidates_by_gradient(
    x: Tensor,
    gradient: Tensor,
    k: int,
    exclude: SparsePattern,
    geometry: ConvolutionGeometry,
    *,
    keys: TieKeys | None = None,
) -> Tensor:
    """As :func:`grow_candidates_by_gradient`, of a convolution; positions are those of its weight as a matrix.

    Args:
        x: The layer's input ``[batch, in, height, width]``.
        gradient: Of its output ``[batch, out, height, width]``.
        k: How many.
        exclude: Positions that are never chosen, ``[out, in / groups * height * width]``.
        geometry: Of the convolution.
        keys: Order equal magnitudes.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    images, outputs = x.detach().to(wide), gradient.detach().to(wide)
    per_group = geometry.out_channels // geometry.groups
    in_per_group = geometry.in_channels // geometry.groups

    def rows_of_gradient(rows: slice, out: Tensor) -> Tensor:
        for group in range(rows.start // per_group, -(-rows.stop // per_group)):
            first, last = max(rows.start, group * per_group), min(rows.stop, (group + 1) * per_group)
            dense = torch.ops.aten.convolution_backward(
                outputs[:, first:last],
                images[:, group * in_per_group : (group + 1) * in_per_group],
                images.new_empty(last - first, in_per_group, *geometry.kernel_size),
                None,
                geometry.stride,
                geometry.padding,
                geometry.dilation,
                False,
                [0, 0],
                1,
                [False, True, False],
            )[1]
            out[first - rows.start : last - rows.start] = dense.reshape(last - first, -1)
        return out

    return _stream(rows_of_gradient, k, exclude, wide, keys or TieKeys())


def _stream(
    rows_of_gradient: Callable[[slice, Tensor], Tensor],
    k: int,
    exclude: SparsePattern,
    dtype: torch.dtype,
    keys: TieKeys,
) -> Tensor:
    num_rows, num_columns = exclude.shape
    itemsize = torch.empty(0, dtype=dtype).element_size()
    tile_rows = max(1, min(num_rows, _TILE_BYTES // max(1, num_columns * itemsize)))
    tile = torch.empty(tile_rows, num_columns, dtype=dtype)
    guess = _guess_smallest(rows_of_gradient, k, exclude, tile) if num_rows > 4 * tile_rows else 0.0
    for at_least in (guess, 0.0):
        growth = _core.StreamedGrowth(exclude.native(), k, keys.seed, keys.layer, keys.update, keys.draw, at_least)
        for first in range(0, num_rows, tile_rows):
            rows = slice(first, min(num_rows, first + tile_rows))
            part = rows_of_gradient(rows, tile[: rows.stop - first])
            growth.offer(first, rows.stop - first, part.data_ptr(), str(dtype).removeprefix("torch."))
        chosen = torch.from_numpy(growth.finish())
        if chosen.numel() == k:
            break
    return chosen


def _guess_smallest(
    rows_of_gradient: Callable[[slice, Tensor], Tensor], k: int, exclude: SparsePattern, tile: Tensor
) -> float:
    """A magnitude that somewhat more than ``k`` scores reach, from some rows spread over the layer."""
    num_rows, num_columns = exclude.shape
    num_sampled = min(tile.shape[0], max(4, math.ceil(_NUM_SAMPLED / num_columns)))
    starts = torch.linspace(0, num_rows - 1, num_sampled).long().tolist()
    sample = torch.cat([rows_of_gradient(slice(row, row + 1), tile[:1]).flatten().abs() for row in starts])
    wanted = math.ceil(sample.numel() * k / exclude.numel * _MARGIN) + 16
    if wanted >= sample.numel():
        return 0.0
    smallest = sample.kthvalue(sample.numel() - wanted).values
    return float(smallest) if bool(torch.isfinite(smallest)) else 0.0
