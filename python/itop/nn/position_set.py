"""Sets of positions of a matrix, listed or all but those listed: a set algebra that never enumerates a matrix."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from itop import _core
from itop.nn.pattern import SparsePattern

__all__ = ["CompressedPositions", "PositionSet"]


@final
class _Listing:
    """Row pointers and columns of positions; those chosen from another listing are made when somebody first looks.

    Args:
        parts: The two tensors.
        whole: Or what the positions are chosen from,
        chosen: which of its entries, bool,
        count: and how many.
    """

    __slots__ = ("_parts", "chosen", "count", "rest", "whole")

    def __init__(
        self,
        parts: tuple[Tensor, Tensor] | None,
        *,
        whole: PositionSet | None = None,
        chosen: Tensor | None = None,
        count: int | None = None,
    ) -> None:
        self._parts = parts
        self.whole = whole
        self.chosen = chosen
        self.count = int(self.parts[1].numel()) if count is None else count
        self.rest: PositionSet | None = None
        """What the whole holds beside these, once somebody has asked: an update asks often."""

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        if self._parts is None:
            assert self.whole is not None
            assert self.chosen is not None
            row_pointers, columns = _core.filter_positions(self.whole.native(), self.chosen.data_ptr())
            self._parts = torch.from_numpy(row_pointers), torch.from_numpy(columns)
        return self._parts


@final
class PositionSet:
    """Positions of a matrix: those listed, or the complement of those listed. Immutable.

    Memory and time of every operation are those of the listed positions.

    Args:
        shape: Rows and columns of the matrix.
        row_pointers: int64 ``[rows + 1]``.
        columns: int32 ``[listed]``, ascending inside a row.
        is_complement: Whether the set is everything that is not listed.
    """

    __slots__ = ("_indices", "_listing", "is_complement", "shape")

    def __init__(
        self, shape: tuple[int, int], row_pointers: Tensor, columns: Tensor, is_complement: bool = False
    ) -> None:
        self.shape = shape
        self._listing = _Listing((row_pointers, columns))
        self.is_complement = is_complement
        self._indices: Tensor | None = None

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> PositionSet:
        return cls(shape, torch.zeros(shape[0] + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32))

    @classmethod
    def of(cls, pattern: SparsePattern) -> PositionSet:
        """A pattern's positions; shares its memory."""
        return cls(pattern.shape, pattern.row_pointers, pattern.columns)

    @classmethod
    def from_indices(cls, shape: tuple[int, int], indices: Tensor) -> PositionSet:
        """From ascending int64 indices ``row * columns + column``, which are kept.

        Raises:
            ValueError: If they are out of range or out of order.
        """
        indices = indices.contiguous()
        result = cls._of_parts(shape, _core.positions_of(*shape, indices.data_ptr(), indices.numel()))
        result._indices = indices
        return result

    @classmethod
    def from_mask(cls, mask: Tensor) -> PositionSet:
        """From a dense bool tensor ``[rows, ...]``."""
        return cls.of(SparsePattern.from_mask(mask))

    @classmethod
    def _of_parts(cls, shape: tuple[int, int], parts: tuple[Any, Any], is_complement: bool = False) -> PositionSet:
        row_pointers, columns = parts
        return cls(shape, torch.from_numpy(row_pointers), torch.from_numpy(columns), is_complement)

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def row_pointers(self) -> Tensor:
        return self._listing.parts[0]

    @property
    def columns(self) -> Tensor:
        return self._listing.parts[1]

    @property
    def num_listed(self) -> int:
        return self._listing.count

    @property
    def count(self) -> int:
        """How many positions are in the set."""
        return self.shape[0] * self.shape[1] - self.num_listed if self.is_complement else self.num_listed

    def native(self) -> _core.PositionList:
        """The listed positions for the core; this set must outlive it."""
        return _core.PositionList(*self.shape, self.row_pointers.data_ptr(), self.columns.data_ptr())

    def listed(self) -> PositionSet:
        """The same set with its members listed; of a complement this enumerates the matrix."""
        if not self.is_complement:
            return self
        rows, width = self.shape
        everything = PositionSet(
            self.shape,
            torch.arange(rows + 1, dtype=torch.int64) * width,
            torch.arange(width, dtype=torch.int32).repeat(rows),
        )
        return everything._combined(self, _core.SetOperation.DIFFERENCE)

    def indices(self) -> Tensor:
        """Of a listed set int64, ascending: row * columns + column."""
        if self._indices is not None:
            return self._indices
        rows = torch.repeat_interleave(self.row_pointers.diff())
        return rows.mul_(self.shape[1]).add_(self.columns)

    def to_mask(self) -> Tensor:
        """A dense bool matrix."""
        mask = torch.full((self.shape[0] * self.shape[1],), self.is_complement, dtype=torch.bool)
        mask[self.indices()] = not self.is_complement
        return mask.view(self.shape)

    def members_among(self, entries: PositionSet) -> Tensor:
        """bool: which of the positions that ``entries`` lists are in this set. Not to be written to."""
        known = self._chosen_from(entries)
        if known is not None:
            return known.logical_not() if self.is_complement else known
        found = torch.empty(entries.num_listed, dtype=torch.bool)
        _core.find_members(entries.native(), self.native(), found.data_ptr())
        return found.logical_not_() if self.is_complement else found

    def only(self, chosen: Tensor, count: int | None = None) -> PositionSet:
        """Of a listed set the members where ``chosen``, bool ``[listed]``, is True.

        Args:
            chosen: Kept, and not to be written to from now on.
            count: How many they are, if that is known: they are then not listed before somebody looks.
        """
        return self._sharing(_Listing(None, whole=self, chosen=chosen.contiguous(), count=count), False)

    def _sharing(self, listing: _Listing, is_complement: bool) -> PositionSet:
        result = PositionSet.__new__(PositionSet)
        result.shape, result.is_complement = self.shape, is_complement
        result._listing, result._indices = listing, None
        return result

    def _chosen_from(self, entries: PositionSet) -> Tensor | None:
        """Which of the entries this set lists, where it was chosen from the very same."""
        whole = self._listing.whole
        return self._listing.chosen if whole is not None and whole.columns is entries.columns else None

    # --- algebra ------------------------------------------------------------------------------------------------------

    def __invert__(self) -> PositionSet:
        inverse = self._sharing(self._listing, not self.is_complement)
        inverse._indices = self._indices
        return inverse

    def __and__(self, other: PositionSet) -> PositionSet:
        if self.is_complement and other.is_complement:
            return ~self._combined(other, _core.SetOperation.UNION)
        if self.is_complement:
            return other & self
        if other.is_complement:
            known = other._chosen_from(self)
            if known is not None:
                listing = other._listing
                if listing.rest is None:
                    listing.rest = self.only(known.logical_not(), self.num_listed - listing.count)
                return listing.rest
        operation = _core.SetOperation.DIFFERENCE if other.is_complement else _core.SetOperation.INTERSECTION
        return self._combined(other, operation)

    def __or__(self, other: PositionSet) -> PositionSet:
        return ~(~self & ~other)

    def __sub__(self, other: PositionSet) -> PositionSet:
        return self & ~other

    def __xor__(self, other: PositionSet) -> PositionSet:
        return (self - other) | (other - self)

    def _combined(self, other: PositionSet, operation: _core.SetOperation) -> PositionSet:
        return self._of_parts(self.shape, _core.combine_positions(self.native(), other.native(), operation))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PositionSet):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.is_complement == other.is_complement
            and torch.equal(self.row_pointers, other.row_pointers)
            and torch.equal(self.columns, other.columns)
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        all_but = "all but " if self.is_complement else ""
        return f"PositionSet({self.shape[0]}x{self.shape[1]}, {all_but}{self.num_listed})"


@final
class CompressedPositions:
    """A set of positions that only grows, for what was explored: about two bytes a member while there are few, a bit a
    position where there are many (:class:`itop._core.CompressedSet`).
    """

    def __init__(self, shape: tuple[int, int], native: _core.CompressedSet | None = None) -> None:
        self.shape = shape
        self._native = _core.CompressedSet(shape[0] * shape[1]) if native is None else native

    @property
    def count(self) -> int:
        return self._native.count

    @property
    def num_bytes(self) -> int:
        return self._native.num_bytes

    def insert(self, positions: PositionSet) -> int:
        """Adds the members of a listed set; returns how many are new."""
        return self._native.insert(positions.native())

    def contains_all(self, positions: PositionSet) -> bool:
        return self._native.contains_all(positions.native())

    def to_set(self) -> PositionSet:
        return PositionSet._of_parts(self.shape, self._native.to_positions(self.shape[1]))

    def to_bytes(self) -> Tensor:
        """uint8, for saving."""
        return torch.from_numpy(self._native.to_bytes())

    @classmethod
    def from_bytes(cls, shape: tuple[int, int], content: Tensor) -> CompressedPositions:
        """The inverse.

        Raises:
            ValueError: If the bytes are no set of positions of such a matrix.
        """
        content = content.detach().cpu().contiguous()
        native = _core.CompressedSet.from_bytes(shape[0] * shape[1], content.data_ptr(), content.numel())
        return cls(shape, native)
