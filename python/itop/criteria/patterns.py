"""Shapes that a layer's active weights must have, for hardware that only gains from these.

A pattern turns the counts of a method into quotas of finer grain; criteria do not know of it. A layer is seen as a
matrix ``[out, in * kernel]``, rows being its output units.

Counts follow the pattern: those of the allocation, or of a ramp on its way there, are rounded to what it admits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from itop.context import Context
from itop.criteria.block_quota import BlockQuota, BlockSets
from itop.criteria.group_quota import GroupQuota, matrix_shape
from itop.criteria.initial import InitialMasks
from itop.selection import BitSet, Quota

Counts: TypeAlias = Sequence[int] | Quota


class Pattern(ABC):
    """Which sets of active weights are admitted."""

    @property
    def works_on_shards(self) -> bool:
        """Whether it can be kept where each rank holds a part of a layer: groups and blocks may be cut."""
        return False

    @property
    def works_truly_sparse(self) -> bool:
        """Whether it can be kept in layers that hold their active weights only."""
        return False

    @property
    def drops_whole_blocks(self) -> bool:
        """Whether weights go in company, so that only scores, which can be added up, say which."""
        return False

    @abstractmethod
    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        """The initial masks of a rule, in this pattern."""

    @abstractmethod
    def keep_quota(self, context: Context, goals: Sequence[int]) -> Counts:
        """What stays where layers shrink to so many weights."""

    def drop_quota(self, context: Context, counts: Sequence[int], among: BitSet) -> Counts:
        """What may be dropped, given how many weights of each layer, among those active."""
        return counts

    @abstractmethod
    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int], goals: Sequence[int]) -> Counts:
        """What must be grown beside ``kept`` to be back in the pattern.

        Args:
            counts: So many weights of each layer.
            goals: Active weights of each layer after it, before they are rounded to what the pattern admits.
        """


@final
@dataclass(frozen=True, slots=True)
class Unstructured(Pattern):
    """Any weights."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

    @property
    def works_on_shards(self) -> bool:
        return True

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        return rule.masks(context)

    def keep_quota(self, context: Context, goals: Sequence[int]) -> Counts:
        return goals

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int], goals: Sequence[int]) -> Counts:
        return counts


@dataclass(frozen=True, slots=True)
class _Grouped(Pattern):
    """So many active weights in each group of consecutive weights of a row."""

    def group_size(self, shape: Sequence[int]) -> int:
        """Weights in a group of a layer; the last of a row may hold fewer."""
        raise TypeError("a grouped pattern says how large its groups are")

    def targets(self, context: Context, counts: Sequence[int]) -> list[Tensor]:
        """Active weights of each group, int32 [rows, groups in a row], one tensor a layer, for so many in a layer."""
        targets = []
        for layer, count in zip(context.topology.layers, counts, strict=True):
            size = self.group_size(layer.shape)
            rows, columns = matrix_shape(layer.shape)
            num_groups = math.ceil(columns / size)
            active = max(1, min(size, round(count / layer.numel * size)))
            target = torch.full((rows, num_groups), active, dtype=torch.int32, device=context.topology.device)
            rest = columns - (num_groups - 1) * size
            target[:, -1] = max(1, round(active * rest / size))
            targets.append(target)
        return targets

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        quota = self.keep_quota(context, rule.counts(context))
        return context.topology.select(context.topology.full(), quota, rule.scores(context))

    def keep_quota(self, context: Context, goals: Sequence[int]) -> GroupQuota:
        sizes = [self.group_size(layer.shape) for layer in context.topology.layers]
        return GroupQuota(sizes, self.targets(context, goals))

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int], goals: Sequence[int]) -> Counts:
        return replace(self.keep_quota(context, goals), present=kept)


@final
@dataclass(frozen=True, slots=True)
class NofM(_Grouped):
    """N of M: in each ``m`` consecutive weights of a row the same number n is active; n follows from the layer's density.

    Args:
        m: At least 2. A row shorter than m is one group.

    Reference:
        Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR 2021.
    """

    m: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.m, bool) or not isinstance(self.m, int) or self.m < 2:
            raise ValueError(f"m must be a whole number of at least 2, got {self.m!r}")

    def group_size(self, shape: Sequence[int]) -> int:
        return min(self.m, matrix_shape(shape)[1])


@final
@dataclass(frozen=True, slots=True)
class ConstantFanIn(_Grouped):
    """Every output unit of a layer has the same number of incoming weights (Lasby et al., ICLR 2024)."""

    def group_size(self, shape: Sequence[int]) -> int:
        return matrix_shape(shape)[1]


@final
@dataclass(frozen=True, slots=True)
class Blocks(Pattern):
    """Blocks of ``rows x columns`` weights are active or not as a whole; those at the edge may be smaller.

    Reference:
        Gray et al., GPU kernels for block-sparse weights, 2017.
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a block must be a whole number of at least 1, got {value!r}")

    @property
    def drops_whole_blocks(self) -> bool:
        return True

    def num_blocks(self, context: Context, counts: Sequence[int]) -> list[int]:
        """Active blocks of each layer for so many weights, at least 1."""
        return [
            max(1, round(count / layer.numel * self._grid(layer.shape)))
            for layer, count in zip(context.topology.layers, counts, strict=True)
        ]

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        quota = self.keep_quota(context, rule.counts(context))
        return context.topology.select(context.topology.full(), quota, rule.scores(context))

    def keep_quota(self, context: Context, goals: Sequence[int]) -> BlockQuota:
        return BlockQuota(self.rows, self.columns, self.num_blocks(context, goals))

    def drop_quota(self, context: Context, counts: Sequence[int], among: BitSet) -> Counts:
        blocks = [
            round(count / max(1, present) * num_blocks)
            for count, present, num_blocks in zip(
                counts, among.counts(), self._blocks_with_any(context, among), strict=True
            )
        ]
        return BlockQuota(self.rows, self.columns, blocks)

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int], goals: Sequence[int]) -> Counts:
        present = self._blocks_with_any(context, kept)
        missing = [max(0, goal - have) for goal, have in zip(self.num_blocks(context, goals), present, strict=True)]
        return BlockQuota(self.rows, self.columns, missing)

    def _blocks_with_any(self, context: Context, among: BitSet) -> list[int]:
        blocks = BlockSets(context.topology, self.rows, self.columns).touched_by(among)
        return blocks.count(context.topology.stream)

    def _grid(self, shape: Sequence[int]) -> int:
        rows, columns = matrix_shape(shape)
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)
