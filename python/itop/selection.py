"""What selections work on: sets of weights, scores, and quotas finer than one count a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itop import _core
from itop.held_parts import HeldParts

if TYPE_CHECKING:
    from itop.topology import Topology


class BitSet:
    """A set of weights of a model: one bit for each, kept by the core.

    ``&``, ``|``, ``-``, ``^`` and ``~`` make new sets; sets over the same parts go together.

    Args:
        parts: Whose weights they are.
        native: The bits; not changed afterwards where counts are given.
        counts: What :meth:`counts` answers, where that is known: a GPU need not be asked, nor waited for.
    """

    __slots__ = ("_known_counts", "_parts", "native")

    def __init__(self, parts: HeldParts, native: _core.BitSets, counts: Sequence[int] | None = None) -> None:
        self._parts = parts
        self.native = native
        self._known_counts = counts

    def __and__(self, other: BitSet) -> BitSet:
        return BitSet(self._parts, self.native.intersection(other.native, self._parts.stream))

    def __or__(self, other: BitSet) -> BitSet:
        return BitSet(self._parts, self.native.union(other.native, self._parts.stream))

    def __sub__(self, other: BitSet) -> BitSet:
        return BitSet(self._parts, self.native.difference(other.native, self._parts.stream))

    def __xor__(self, other: BitSet) -> BitSet:
        return BitSet(self._parts, self.native.symmetric_difference(other.native, self._parts.stream))

    def __invert__(self) -> BitSet:
        return BitSet(self._parts, self.native.complement(self._parts.stream))

    def copy(self) -> BitSet:
        return BitSet(self._parts, self.native.copy(self._parts.stream))

    def counts(self) -> list[int]:
        """How many weights of each layer are in the set, over all processes."""
        if self._known_counts is not None:
            return list(self._known_counts)
        return self._parts.summed(self.native.count(self._parts.stream))

    def to_tensors(self) -> list[Tensor]:
        """Bool tensors in the local parts' shapes, devices and memory formats; copies."""
        return [self.to_tensor(i) for i in range(len(self._parts.layers))]

    def to_tensor(self, layer: int) -> Tensor:
        weight = self._parts.local(layer)
        target = torch.empty_strided(weight.shape, weight.stride(), dtype=torch.bool, device=weight.device)
        self.native.unpack(layer, target, self._parts.stream)
        return target


@dataclass(frozen=True, slots=True)
class Scores:
    """What a selection compares: one tensor a layer, in the shape of the part this process holds, finite.

    Attributes:
        tensors: float32, float64, bfloat16 or float16, on the layer's device; DTensors give their local part.
        signed: Compare the values; by default their magnitudes.
    """

    tensors: Sequence[Tensor]
    signed: bool = False


@dataclass(frozen=True, slots=True)
class SelectionOrder:
    """How candidates are compared: magnitudes or values, which end is better, and the number of the random keys."""

    magnitude: bool
    largest: bool
    draw: int


class Quota(ABC):
    """How many weights a selection takes where one count a layer does not say it: so many in each group, whole blocks."""

    @abstractmethod
    def select(
        self,
        topology: Topology,
        candidates: BitSet,
        scores: Scores | None,
        *,
        largest: bool,
        preferred: BitSet | None,
    ) -> BitSet:
        """The best candidates that the quota admits; arguments as in :meth:`Topology.select`."""
