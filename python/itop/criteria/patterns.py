"""Shapes that a layer's active weights must have, for hardware that only gains from these.

A pattern turns the counts of a method into quotas of finer grain; criteria do not know of it. A layer is seen as a
matrix ``[out, in * kernel]``, rows being its output units.

Fan-ins and blocks are counted whole: the numbers of the allocation, or of a ramp on its way there, are rounded to what
these admit. N of M keeps them exactly.
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
from itop.criteria.group_quota import GroupQuota
from itop.criteria.initial import InitialMasks
from itop.layers import matrix_shape
from itop.ranges import require_count
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

    @abstractmethod
    def group_size(self, columns: int) -> int:
        """Weights in a group, given those of a row; the last of a row may hold fewer."""

    @abstractmethod
    def targets(self, rows: int, columns: int, count: int, device: torch.device) -> Tensor:
        """Active weights of each group, int32 [rows, groups in a row], for so many in a layer."""

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        quota = self.keep_quota(context, rule.counts(context))
        return context.topology.select(context.topology.full(), quota, rule.scores(context))

    def keep_quota(self, context: Context, goals: Sequence[int]) -> GroupQuota:
        topology = context.topology
        shapes = [matrix_shape(layer.shape) for layer in topology.layers]
        return GroupQuota(
            [self.group_size(columns) for _, columns in shapes],
            [self.targets(*shape, count, topology.device) for shape, count in zip(shapes, goals, strict=True)],
        )

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int], goals: Sequence[int]) -> Counts:
        return replace(self.keep_quota(context, goals), present=kept)


@final
@dataclass(frozen=True, slots=True)
class NofM(_Grouped):
    """N of M: of each ``m`` consecutive weights of a row at most n are active, as few as the layer's density allows.

    The layer's number is exact: where it is no multiple of its groups, some of them, evenly spread, have n - 1. A shorter
    group at the end of a row has its share, rounded up.

    Args:
        m: At least 2. A row shorter than m is one group.

    Reference:
        Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR 2021.
    """

    m: int = 16

    def __post_init__(self) -> None:
        require_count("m", self.m, 2)

    def group_size(self, columns: int) -> int:
        return min(self.m, columns)

    def targets(self, rows: int, columns: int, count: int, device: torch.device) -> Tensor:
        size = self.group_size(columns)
        num_groups = math.ceil(columns / size)
        at_last = [math.ceil(n * (columns - (num_groups - 1) * size) / size) for n in range(size + 1)]
        of_a_row = [n * (num_groups - 1) + last for n, last in enumerate(at_last)]
        n = max(n for n, held in enumerate(of_a_row) if rows * held <= count)
        targets = torch.full((rows, num_groups), n, dtype=torch.int32, device=device)
        targets[:, -1] = at_last[n]
        more = count - rows * of_a_row[n]
        if more:
            # All groups, or all but the last of each row, may have one more; those that do stay them as the count rises.
            width = of_a_row[n + 1] - of_a_row[n]
            targets[:, :width] += evenly_spread(rows * width, more, device).view(rows, width)
        return targets


def evenly_spread(total: int, count: int, device: torch.device) -> Tensor:
    """Marks so many of a row of places, none of which is left when the count rises: steps of the golden ratio go round."""
    step = max(1, round(total * (math.sqrt(5.0) - 1.0) / 2.0))
    while math.gcd(step, total) != 1:
        step += 1
    return torch.arange(total, device=device) * step % total < count


@final
@dataclass(frozen=True, slots=True)
class ConstantFanIn(_Grouped):
    """Every output unit of a layer has the same number of incoming weights (Lasby et al., ICLR 2024).

    That is the nearest to the layer's density, at least 1.
    """

    def group_size(self, columns: int) -> int:
        return columns

    def targets(self, rows: int, columns: int, count: int, device: torch.device) -> Tensor:
        fan_in = max(1, min(columns, round(count / (rows * columns) * columns)))
        return torch.full((rows, 1), fan_in, dtype=torch.int32, device=device)


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
            require_count(f"{name} of a block", value)

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
