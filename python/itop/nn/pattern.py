"""Where the active weights of a matrix are, without the matrix."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from itop import _core

__all__ = ["PatternUpdate", "Positions", "SparsePattern", "TieKeys", "free_positions", "select_entries"]

STREAMED_POSITIONS = 1 << 32
"""Up to this many positions random growth looks at every free one and agrees with the masked execution."""

_next_identifier = itertools.count(1)
_alive: WeakValueDictionary[int, SparsePattern] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class TieKeys:
    """Which random keys order positions of equal score: those of the masked execution for the same four numbers.

    Args:
        seed: Of the run.
        layer: The layer's place among the sparse layers.
        update: How many topology updates came before.
        draw: Which of the update's selections, in [0, 128).
    """

    seed: int = 0
    layer: int = 0
    update: int = 0
    draw: int = 0


class PatternUpdate(NamedTuple):
    """A pattern after a topology update.

    Attributes:
        pattern: The new one.
        sources: int32, for each of its entries the old entry whose value stays (-1: grown).
        num_regrown: How many positions were dropped and grown.
    """

    pattern: SparsePattern
    sources: Tensor
    num_regrown: int


class SparsePattern:
    """Positions of a matrix in row order: row pointers and columns. Immutable; copies share it.

    Args:
        shape: Rows and columns of the matrix.
        row_pointers: int64 ``[rows + 1]``, ascending from 0 to the number of entries.
        columns: int32 or int64 ``[entries]``, ascending inside a row.

    Raises:
        ValueError: If the tensors are no such pattern.
    """

    def __init__(self, shape: tuple[int, int], row_pointers: Tensor, columns: Tensor) -> None:
        rows, width = shape
        if row_pointers.dtype != torch.int64 or row_pointers.shape != (rows + 1,):
            raise ValueError(f"row_pointers must be int64 [{rows + 1}], got {_describe(row_pointers)}")
        if columns.dtype not in (torch.int32, torch.int64) or columns.dim() != 1:
            raise ValueError(f"columns must be a vector of int32 or int64, got {_describe(columns)}")
        if width > torch.iinfo(torch.int32).max:
            raise ValueError(f"a sparse matrix has fewer than 2^31 columns, got {width}")
        self.shape = (rows, width)
        self.row_pointers = row_pointers.detach().cpu().contiguous()
        # Before it is narrowed: an index past 2^31 must not come back as a small one.
        if (
            columns.dtype == torch.int64
            and columns.numel()
            and not 0 <= int(columns.min()) <= int(columns.max()) < width
        ):
            raise ValueError(f"columns must be in [0, {width}), got {int(columns.min())} to {int(columns.max())}")
        self.columns = columns.detach().to("cpu", torch.int32).contiguous()
        _core.sparse_check_pattern(rows, width, self.num_active, self.row_pointers.data_ptr(), self.columns.data_ptr())
        self._register()

    def _register(self) -> None:
        self.kernel_cache: dict[Any, Any] = {}
        """Block starts, transposed indices and choices of layout, made by :mod:`itop.nn.derived_indices` when first needed."""
        self.identifier = next(_next_identifier)
        _alive[self.identifier] = self

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def of_core(cls, shape: tuple[int, int], row_pointers: Tensor, columns: Tensor) -> SparsePattern:
        """From what the core has made itself, int64 and int32: nothing is left to check."""
        pattern = cls.__new__(cls)
        pattern.shape = shape
        pattern.row_pointers, pattern.columns = row_pointers, columns
        pattern._register()
        return pattern

    @classmethod
    def from_mask(cls, mask: Tensor) -> SparsePattern:
        """The True positions of a mask ``[rows, ...]``; trailing dimensions are flattened."""
        flat = mask.detach().to("cpu", torch.bool).reshape(mask.shape[0], -1)
        rows, columns = flat.nonzero(as_tuple=True)
        return cls((flat.shape[0], flat.shape[1]), _row_pointers(rows, flat.shape[0]), columns.to(torch.int32))

    @classmethod
    def from_coordinates(cls, shape: tuple[int, int], rows: Tensor, columns: Tensor) -> SparsePattern:
        """Positions given by row and column in row order (int32 or int64).

        Raises:
            ValueError: If they are out of range, out of order, or repeat.
        """
        rows = rows.detach().to("cpu", torch.int64)
        if rows.shape != columns.shape or rows.dim() != 1:
            raise ValueError(
                f"rows and columns must be vectors of one length, got {_describe(rows)} and {_describe(columns)}"
            )
        if rows.numel() and (bool((rows[1:] < rows[:-1]).any()) or int(rows[0]) < 0 or int(rows[-1]) >= shape[0]):
            raise ValueError(f"rows must ascend within [0, {shape[0]}), got {int(rows.min())} to {int(rows.max())}")
        return cls(shape, _row_pointers(rows, shape[0]), columns)

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> SparsePattern:
        return cls(shape, torch.zeros(shape[0] + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32))

    @classmethod
    def random(cls, shape: tuple[int, int], num_active: int, keys: TieKeys) -> SparsePattern:
        """Exactly ``num_active`` positions, uniformly at random; memory in proportion to them."""
        nothing = cls.empty(shape)
        grown = nothing.free_positions(num_active, keys)
        return nothing.updated(torch.empty(0, dtype=torch.bool), grown).pattern

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def num_active(self) -> int:
        return self.columns.numel()

    @property
    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def rows(self) -> Tensor:
        """int64 ``[entries]``: the row of every entry."""
        return torch.repeat_interleave(self.row_pointers.diff())

    def positions(self) -> Tensor:
        """int64 ``[entries]``, ascending: row * columns + column."""
        return self.rows() * self.shape[1] + self.columns

    def to_mask(self) -> Tensor:
        """A dense bool matrix."""
        mask = torch.zeros(self.numel, dtype=torch.bool)
        mask[self.positions()] = True
        return mask.view(self.shape)

    def num_bytes(self) -> int:
        """Memory of the indices, those the kernels derived included."""
        from itop.nn.derived_indices import cached_bytes

        return self.row_pointers.nbytes + self.columns.nbytes + cached_bytes(self)

    def native(self) -> _core.PositionList:
        """A view for the core; this pattern must outlive it."""
        return _core.PositionList(*self.shape, self.row_pointers.data_ptr(), self.columns.data_ptr())

    # --- changing: a new pattern --------------------------------------------------------------------------------------

    def updated(self, keep: Tensor, grown: Tensor, *, regrown_keeps_value: bool = False) -> PatternUpdate:
        """Removes entries and adds positions, in time and memory of the active weights.

        Args:
            keep: bool ``[entries]``; False drops.
            grown: int64, ascending: positions row * columns + column that are not kept.
            regrown_keeps_value: Whether a position that is dropped and grown keeps its value, else it starts anew.

        Raises:
            ValueError: If a grown position is kept, out of order or out of range.
        """
        if keep.dtype != torch.bool or keep.shape != (self.num_active,):
            raise ValueError(f"keep must be bool [{self.num_active}], got {_describe(keep)}")
        if grown.dtype != torch.int64 or grown.dim() != 1:
            raise ValueError(f"grown must be a vector of int64, got {_describe(grown)}")
        keep, grown = keep.cpu().contiguous(), grown.cpu().contiguous()
        *parts, num_regrown = _core.sparse_update_pattern(
            self.native(), keep.data_ptr(), grown.data_ptr(), grown.numel(), regrown_keeps_value
        )
        row_pointers, columns, sources = (torch.from_numpy(part) for part in parts)
        return PatternUpdate(SparsePattern.of_core(self.shape, row_pointers, columns), sources, num_regrown)

    def free_positions(self, k: int, keys: TieKeys) -> Tensor:
        """Exactly ``k`` positions outside the pattern, uniformly at random, ascending; no dense matrix is made.

        Up to 2^32 positions they are the masked execution's choice for the same keys.
        """
        return free_positions(self, k, keys)

    # --- copies ---------------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsePattern:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePattern, (self.shape, self.row_pointers, self.columns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparsePattern):
            return NotImplemented
        return (
            self.shape == other.shape
            and torch.equal(self.row_pointers, other.row_pointers)
            and torch.equal(self.columns, other.columns)
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"SparsePattern({self.shape[0]}x{self.shape[1]}, {self.num_active} active)"


class Positions(Protocol):
    """Positions of a matrix, row by row: a pattern or a listed set."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def row_pointers(self) -> Tensor: ...
    @property
    def columns(self) -> Tensor: ...
    def native(self) -> _core.PositionList: ...


def free_positions(taken: Positions, k: int, keys: TieKeys) -> Tensor:
    """As :meth:`SparsePattern.free_positions`, outside any listed positions."""
    chosen = _core.grow_uniformly(taken.native(), k, keys.seed, keys.layer, keys.update, keys.draw, STREAMED_POSITIONS)
    return torch.from_numpy(chosen)


def select_entries(
    pattern: Positions, scores: Tensor, k: int, keys: TieKeys, *, magnitude: bool, largest: bool
) -> Tensor:
    """The ``k`` best entries of a pattern, bool ``[entries]``; equal scores go by the tie keys of their positions.

    Args:
        scores: ``[entries]``, float32, float64 or bfloat16, finite.
        magnitude: Compare magnitudes; else values.
        largest: Whether large scores are better.

    Raises:
        NonFiniteError: If a score is NaN or infinite.
        ValueError: If the scores are not on the CPU.
    """
    if scores.device.type != "cpu":
        raise ValueError(f"entries of a pattern are chosen on the CPU only, but the scores are on {scores.device}")
    chosen = torch.empty(pattern.columns.numel(), dtype=torch.bool)
    scores = scores.contiguous()
    _core.sparse_select_entries(
        pattern.native(),
        scores.data_ptr(),
        str(scores.dtype).removeprefix("torch."),
        magnitude,
        largest,
        k,
        keys.seed,
        keys.layer,
        keys.update,
        keys.draw,
        chosen.data_ptr(),
    )
    return chosen


def pattern_of(identifier: int) -> SparsePattern:
    """The living pattern of an identifier: how an operator finds it from a tensor that ``torch.compile`` can carry."""
    pattern = _alive.get(identifier)
    if pattern is None:
        raise RuntimeError("the sparse layer's pattern is gone: the layer was deleted before its backward pass")
    return pattern


def _row_pointers(rows: Tensor, num_rows: int) -> Tensor:
    pointers = torch.zeros(num_rows + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(rows, minlength=num_rows), 0, out=pointers[1:])
    return pointers


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
