"""Sets of weights of a model with truly sparse layers, and the choice of some of a layer's positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from itop import _core
from itop.held_parts import HeldParts
from itop.layers import Layer
from itop.nn.growth import DenseRows, ScoreRows, scores_at
from itop.nn.pattern import SparsePattern, TieKeys, free_positions, select_entries
from itop.nn.position_set import PositionSet
from itop.selection import BitSet, Scores

__all__ = ["PositionSets", "StreamedScores", "choose", "positions_of"]


@final
class PositionSets(BitSet):
    """A set of weights of a model some of whose layers are truly sparse: bits of the others, positions of these.

    Attributes:
        positions: By layer.
    """

    __slots__ = ("positions",)

    def __init__(self, parts: HeldParts, native: _core.BitSets, positions: Mapping[int, PositionSet]) -> None:
        super().__init__(parts, native)
        self.positions = positions

    def _with(
        self, other: BitSet, bits: BitSet, combine: Callable[[PositionSet, PositionSet], PositionSet]
    ) -> PositionSets:
        theirs = positions_of(other)
        merged = {i: combine(mine, theirs[i]) for i, mine in self.positions.items()}
        return PositionSets(self._parts, bits.native, merged)

    def __and__(self, other: BitSet) -> PositionSets:
        return self._with(other, super().__and__(other), PositionSet.__and__)

    def __or__(self, other: BitSet) -> PositionSets:
        return self._with(other, super().__or__(other), PositionSet.__or__)

    def __sub__(self, other: BitSet) -> PositionSets:
        return self._with(other, super().__sub__(other), PositionSet.__sub__)

    def __xor__(self, other: BitSet) -> PositionSets:
        return self._with(other, super().__xor__(other), PositionSet.__xor__)

    def __invert__(self) -> PositionSets:
        others = {i: ~positions for i, positions in self.positions.items()}
        return PositionSets(self._parts, super().__invert__().native, others)

    def copy(self) -> PositionSets:
        return PositionSets(self._parts, super().copy().native, self.positions)

    def counts(self) -> list[int]:
        counts = super().counts()
        for i, positions in self.positions.items():
            counts[i] = positions.count
        return counts

    def to_tensor(self, layer: int) -> Tensor:
        """Of a truly sparse layer a dense tensor in its weight's shape: for looking at."""
        if layer in self.positions:
            return self.positions[layer].to_mask().view(self._parts.layers[layer].shape)
        return super().to_tensor(layer)


def positions_of(bits: BitSet) -> Mapping[int, PositionSet]:
    if not isinstance(bits, PositionSets):
        raise TypeError("sets of a truly sparse topology only go with each other")
    return bits.positions


@final
@dataclass(frozen=True, slots=True)
class StreamedScores(Scores):
    """Scores that are formed for some layers as they are compared; their places in ``tensors`` are empty.

    Attributes:
        rows: By layer.
    """

    rows: Mapping[int, ScoreRows] = field(default_factory=dict)


def choose(
    number: int,
    layer: Layer,
    pattern: SparsePattern,
    among: PositionSet,
    k: int,
    scores: Scores | None,
    largest: bool,
    keys: TieKeys,
) -> PositionSet:
    """The ``k`` best of a truly sparse layer's positions, the masked execution's choice.

    Args:
        number: The layer's place among the sparse layers.
        layer: For its shape and name.
        pattern: Of its active weights.
        among: The candidates.
        k: At most as many as there are.
        scores: One entry an active weight, dense, or streamed; None: at random.
        largest: Whether large scores are better.
        keys: Order equal scores.

    Raises:
        NonFiniteError: If a score is NaN or infinite.
        ValueError: If inactive weights are compared by a score that only active ones have, or in another order than the
            largest magnitudes first.
    """
    if k == 0:
        return PositionSet.empty(among.shape)
    if k == among.count:
        return among.listed()
    if scores is None:
        return _choose_at_random(among, k, keys)
    try:
        return _choose_by_score(number, layer, pattern, among, k, scores, largest, keys)
    except _core.NonFiniteError:
        raise _core.NonFiniteError(f"the scores of layer '{layer.name}' hold NaN or infinity") from None


def _choose_at_random(among: PositionSet, k: int, keys: TieKeys) -> PositionSet:
    if among.is_complement:
        return PositionSet.from_indices(among.shape, free_positions(among, k, keys))
    return _best_entries(among, torch.zeros(among.count), k, keys, magnitude=True, largest=False)


def _choose_by_score(
    number: int,
    layer: Layer,
    pattern: SparsePattern,
    among: PositionSet,
    k: int,
    scores: Scores,
    largest: bool,
    keys: TieKeys,
) -> PositionSet:
    rows = _rows_of(number, layer, scores)
    if among.is_complement:
        if rows is None or scores.signed or not largest:
            raise ValueError(
                f"inactive weights of the truly sparse layer '{layer.name}' are grown at random or by the largest magnitude "
                "of a score that all weights have"
            )
        return PositionSet.from_indices(among.shape, rows.grow_best(k, among, keys))
    values = scores_at(rows, among) if rows is not None else _values_at(layer, pattern, among, scores.tensors[number])
    return _best_entries(among, values, k, keys, magnitude=not scores.signed, largest=largest)


def _rows_of(number: int, layer: Layer, scores: Scores) -> ScoreRows | None:
    """Scores that all weights have; None where only active ones do."""
    if isinstance(scores, StreamedScores):
        return scores.rows[number]
    tensor = scores.tensors[number]
    return DenseRows(tensor) if tuple(tensor.shape) == layer.shape else None


def _values_at(layer: Layer, pattern: SparsePattern, among: PositionSet, values: Tensor) -> Tensor:
    if values.shape != (pattern.num_active,):
        raise ValueError(
            f"scores of the truly sparse layer '{layer.name}' must have one entry for each of its "
            f"{pattern.num_active} active weights, got shape {list(values.shape)}"
        )
    if among.count == pattern.num_active:
        return values
    return values[among.members_among(PositionSet.of(pattern))]


def _best_entries(
    among: PositionSet, values: Tensor, k: int, keys: TieKeys, *, magnitude: bool, largest: bool
) -> PositionSet:
    values = values.float() if values.dtype == torch.float16 else values
    return among.only(select_entries(among, values, k, keys, magnitude=magnitude, largest=largest), k)
