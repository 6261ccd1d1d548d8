"""Growth by score without a dense tensor: scores are formed a few rows at a time, only the best candidates survive."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from itop import _core
from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.pattern import Positions, TieKeys

__all__ = [
    "ConvolutionGradientRows",
    "DenseRows",
    "LinearGradientRows",
    "ScoreRows",
    "grow_candidates_by_gradient",
    "grow_convolution_candidates_by_gradient",
    "scores_at",
]

_TILE_BYTES = 4 << 20
_NUM_SAMPLED = 1 << 16
_MARGIN = 1.3
"""How many more candidates than needed a guess of the smallest score lets through."""


class ScoreRows(ABC):
    """A matrix of scores that is never held whole.

    Attributes:
        dtype: float32 or float64.
    """

    dtype: torch.dtype = torch.float32

    @abstractmethod
    def write(self, rows: slice, out: Tensor) -> None:
        """The scores of some rows, into ``out [rows, columns]``."""

    def grow_best(self, k: int, taken: Positions, keys: TieKeys) -> Tensor:
        """The ``k`` positions outside ``taken`` with the scores of largest magnitude, exactly.

        Args:
            k: At most the number of free positions.
            taken: Positions that are never chosen.
            keys: Order equal magnitudes: smaller key first, then lower index.

        Returns:
            int64 ``[k]``, ascending: row * columns + column.

        Raises:
            NonFiniteError: If a candidate's score is NaN or infinite.
        """
        num_rows, _ = taken.shape
        tile = _tile(self, taken.shape)
        guess = _guess_smallest(self, k, taken.shape, tile) if num_rows > 4 * tile.shape[0] else 0.0
        for at_least in (guess, 0.0):
            growth = _streamed_growth(k, taken, keys, at_least)
            for first in range(0, num_rows, tile.shape[0]):
                part = tile[: min(num_rows - first, tile.shape[0])]
                self.write(slice(first, first + part.shape[0]), part)
                growth.offer(first, part.shape[0], part.data_ptr(), _name(self.dtype))
            chosen = torch.from_numpy(growth.finish())
            if chosen.numel() == k:
                break
        return chosen


@final
class DenseRows(ScoreRows):
    """Scores that are held whole, ``[rows, ...]``."""

    def __init__(self, scores: Tensor) -> None:
        flat = scores.detach().reshape(scores.shape[0], -1)
        self._scores = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        self.dtype = self._scores.dtype

    def write(self, rows: slice, out: Tensor) -> None:
        out.copy_(self._scores[rows])


@final
class LinearGradientRows(ScoreRows):
    """The gradient of a linear layer's weight: the sum over batches of ``gradient^T x``.

    Args:
        batches: Inputs ``[..., in]`` and gradients of the outputs ``[..., out]``.
    """

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.dtype = _wide(batches)
        self._factors = [
            tuple(factor.detach().reshape(-1, factor.shape[-1]).to(self.dtype).contiguous() for factor in batch)
            for batch in batches
        ]

    def write(self, rows: slice, out: Tensor) -> None:
        for number, (x, gradient) in enumerate(self._factors):
            if number == 0:
                torch.mm(gradient.t()[rows], x, out=out)
            else:
                out.addmm_(gradient.t()[rows], x)

    def grow_best(self, k: int, taken: Positions, keys: TieKeys) -> Tensor:
        """As of any scores; products are formed and compared a cache's worth at a time."""
        growth = _streamed_growth(k, taken, keys, 0.0)
        passes = [(x.data_ptr(), gradient.data_ptr(), x.shape[0]) for x, gradient in self._factors]
        growth.offer_product(passes, _name(self.dtype))
        return torch.from_numpy(growth.finish())


@final
class ConvolutionGradientRows(ScoreRows):
    """The gradient of a convolution's weight as a matrix ``[out, in / groups * height * width]``.

    Args:
        batches: Inputs ``[batch, in, height, width]`` and gradients of the outputs.
        geometry: Of the convolution.
    """

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]], geometry: ConvolutionGeometry) -> None:
        self.dtype = _wide(batches)
        self._geometry = geometry
        self._batches = [(x.detach().to(self.dtype), gradient.detach().to(self.dtype)) for x, gradient in batches]

    def write(self, rows: slice, out: Tensor) -> None:
        geometry = self._geometry
        per_group = geometry.out_channels // geometry.groups
        for group in range(rows.start // per_group, -(-rows.stop // per_group)):
            first, last = max(rows.start, group * per_group), min(rows.stop, (group + 1) * per_group)
            part = out[first - rows.start : last - rows.start]
            for number, (images, outputs) in enumerate(self._batches):
                dense = self._of_group(images, outputs, group, first, last).reshape(last - first, -1)
                part.copy_(dense) if number == 0 else part.add_(dense)

    def _of_group(self, images: Tensor, outputs: Tensor, group: int, first: int, last: int) -> Tensor:
        geometry = self._geometry
        in_per_group = geometry.in_channels // geometry.groups
        gradient: Tensor = torch.ops.aten.convolution_backward(
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
        return gradient


def scores_at(rows: ScoreRows, positions: Positions) -> Tensor:
    """The scores of listed positions, in their order."""
    tile = _tile(rows, positions.shape)
    parts = []
    for first in range(0, positions.shape[0], tile.shape[0]):
        part = tile[: min(positions.shape[0] - first, tile.shape[0])]
        last = first + part.shape[0]
        pointers = positions.row_pointers[first : last + 1]
        if pointers[0] == pointers[-1]:
            continue
        rows.write(slice(first, last), part)
        columns = positions.columns[pointers[0] : pointers[-1]].long()
        parts.append(part[torch.repeat_interleave(pointers.diff()), columns])
    return torch.cat(parts) if parts else tile.new_empty(0)


def grow_candidates_by_gradient(
    x: Tensor, gradient: Tensor, k: int, exclude: Positions, *, keys: TieKeys | None = None
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
    if (gradient.shape[-1], x.shape[-1]) != exclude.shape:
        raise ValueError(
            f"a weight of {list(exclude.shape)} takes {exclude.shape[1]} input features and gives {exclude.shape[0]}, got "
            f"an input of {x.shape[-1]} and a gradient of {gradient.shape[-1]}"
        )
    return LinearGradientRows([(x, gradient)]).grow_best(k, exclude, keys or TieKeys())


def grow_convolution_candidates_by_gradient(
    x: Tensor,
    gradient: Tensor,
    k: int,
    exclude: Positions,
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
    return ConvolutionGradientRows([(x, gradient)], geometry).grow_best(k, exclude, keys or TieKeys())


def _streamed_growth(k: int, taken: Positions, keys: TieKeys, at_least: float) -> _core.StreamedGrowth:
    return _core.StreamedGrowth(taken.native(), k, keys.seed, keys.layer, keys.update, keys.draw, at_least)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _wide(batches: Sequence[tuple[Tensor, Tensor]]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x, _ in batches) else torch.float32


def _tile(rows: ScoreRows, shape: tuple[int, int]) -> Tensor:
    num_rows, num_columns = shape
    itemsize = torch.empty(0, dtype=rows.dtype).element_size()
    return torch.empty(
        max(1, min(num_rows, _TILE_BYTES // max(1, num_columns * itemsize))), num_columns, dtype=rows.dtype
    )


def _guess_smallest(rows: ScoreRows, k: int, shape: tuple[int, int], tile: Tensor) -> float:
    """A magnitude that somewhat more than ``k`` scores reach, from some rows spread over the layer."""
    num_rows, num_columns = shape
    num_sampled = min(tile.shape[0], max(4, math.ceil(_NUM_SAMPLED / num_columns)))
    sample = []
    for row in torch.linspace(0, num_rows - 1, num_sampled).long().tolist():
        rows.write(slice(row, row + 1), tile[:1])
        sample.append(tile[0].abs())
    scores = torch.cat(sample)
    wanted = math.ceil(scores.numel() * k / (num_rows * num_columns) * _MARGIN) + 16
    if wanted >= scores.numel():
        return 0.0
    smallest = scores.kthvalue(scores.numel() - wanted).values
    return float(smallest) if bool(torch.isfinite(smallest)) else 0.0
