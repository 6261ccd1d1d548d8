"""Shapes that a layer's active weights must have, for hardware that only gains from these.

A pattern turns the counts of a method into quotas of finer grain; criteria do not know of it. A layer is seen as a
matrix ``[out, in * kernel]``, rows being its output units.

Counts follow the pattern: those of the allocation are rounded to what it admits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor

from itop.context import Context
from itop.criteria.initial import InitialMasks
from itop.selection import BitSet, Quota, Scores
from itop.topology import Topology

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

    @abstractmethod
    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        """The initial masks of a rule, in this pattern."""

    def drop_quota(self, context: Context, counts: Sequence[int]) -> Counts:
        """What may be dropped, given how many weights of each layer."""
        return counts

    @abstractmethod
    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int]) -> Counts:
        """What must be grown beside ``kept`` to be back in the pattern, given how many weights of each layer."""


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

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int]) -> Counts:
        return counts


@dataclass(frozen=True, slots=True)
class _Grouped(Pattern):
    """So many active weights in each group of consecutive weights of a row."""

    def group_size(self, shape: Sequence[int]) -> int:
        """Weights in a group of a layer; the last of a row may hold fewer."""
        raise TypeError("a grouped pattern says how large its groups are")

    def targets(self, context: Context) -> list[Tensor]:
        """Active weights of each group, int64 [rows, groups in a row], one tensor a layer."""
        targets = []
        for layer, count in zip(context.topology.layers, context.target_counts, strict=True):
            size = self.group_size(layer.shape)
            rows, columns = _matrix_shape(layer.shape)
            num_groups = math.ceil(columns / size)
            active = max(1, min(size, round(count / layer.numel * size)))
            target = torch.full((rows, num_groups), active, dtype=torch.int64, device=context.topology.device)
            rest = columns - (num_groups - 1) * size
            target[:, -1] = max(1, round(active * rest / size))
            targets.append(target)
        return targets

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        sizes = [self.group_size(layer.shape) for layer in context.topology.layers]
        return context.topology.select(
            context.topology.full(), GroupQuota(sizes, self.targets(context)), rule.scores(context)
        )

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int]) -> Counts:
        sizes = [self.group_size(layer.shape) for layer in context.topology.layers]
        missing = []
        for i, target in enumerate(self.targets(context)):
            present = _grouped(kept.to_tensor(i), sizes[i]).sum(-1)
            missing.append((target - present).clamp_min(0))
        return GroupQuota(sizes, missing)


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
        return min(self.m, _matrix_shape(shape)[1])


@final
@dataclass(frozen=True, slots=True)
class ConstantFanIn(_Grouped):
    """Every output unit of a layer has the same number of incoming weights (Lasby et al., ICLR 2024)."""

    def group_size(self, shape: Sequence[int]) -> int:
        return _matrix_shape(shape)[1]


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

    def num_blocks(self, context: Context) -> list[int]:
        """Active blocks of each layer by the allocation, at least 1."""
        return [
            max(1, round(count / layer.numel * self._grid(layer.shape)))
            for layer, count in zip(context.topology.layers, context.target_counts, strict=True)
        ]

    def initial(self, context: Context, rule: InitialMasks) -> BitSet:
        quota = BlockQuota(self.rows, self.columns, self.num_blocks(context))
        return context.topology.select(context.topology.full(), quota, rule.scores(context))

    def drop_quota(self, context: Context, counts: Sequence[int]) -> Counts:
        active = [
            round(count / max(1, present) * blocks)
            for count, present, blocks in zip(
                counts, context.topology.num_active, self.num_blocks(context), strict=True
            )
        ]
        return BlockQuota(self.rows, self.columns, active)

    def grow_quota(self, context: Context, kept: BitSet, counts: Sequence[int]) -> Counts:
        missing = [
            wanted - int(_block_sums(kept.to_tensor(i).float(), self.rows, self.columns).count_nonzero())
            for i, wanted in enumerate(self.num_blocks(context))
        ]
        return BlockQuota(self.rows, self.columns, [max(0, count) for count in missing])

    def _grid(self, shape: Sequence[int]) -> int:
        rows, columns = _matrix_shape(shape)
        return math.ceil(rows / self.rows) * math.ceil(columns / self.columns)


@final
@dataclass(frozen=True, slots=True)
class GroupQuota(Quota):
    """So many weights in each group of consecutive weights of a row.

    Attributes:
        sizes: Of a layer's groups, one a layer.
        counts: int64 [rows, groups in a row], one tensor a layer.
    """

    sizes: Sequence[int]
    counts: Sequence[Tensor]

    def select(
        self, topology: Topology, candidates: BitSet, scores: Scores | None, *, largest: bool, preferred: BitSet | None
    ) -> BitSet:
        chosen = []
        for i, (size, counts) in enumerate(zip(self.sizes, self.counts, strict=True)):
            keys = _better_is_larger(topology, i, scores, largest)
            admitted = _grouped(candidates.to_tensor(i), size)
            first = None if preferred is None else _grouped(preferred.to_tensor(i), size) & admitted
            order = _grouped(keys, size).masked_fill_(~admitted, -math.inf)
            best = _best(order, counts, first) & admitted
            chosen.append(_ungrouped(best, topology.local(i).shape))
        return topology.from_tensors(chosen)


@final
@dataclass(frozen=True, slots=True)
class BlockQuota(Quota):
    """So many whole blocks of each layer; a block's score is the sum of those of its weights.

    A block is a candidate where any of its weights is.
    """

    rows: int
    columns: int
    counts: Sequence[int]

    def select(
        self, topology: Topology, candidates: BitSet, scores: Scores | None, *, largest: bool, preferred: BitSet | None
    ) -> BitSet:
        chosen = []
        for i, count in enumerate(self.counts):
            keys = _better_is_larger(topology, i, scores, largest)
            admitted = _block_sums(candidates.to_tensor(i).float(), self.rows, self.columns) > 0
            totals = _block_sums(keys, self.rows, self.columns).masked_fill_(~admitted, -math.inf)
            first = None
            if preferred is not None:
                first = (
                    _block_sums((preferred & candidates).to_tensor(i).float(), self.rows, self.columns).flatten() > 0
                )
            wanted = torch.tensor(count, dtype=torch.int64, device=totals.device)
            best = (_best(totals.flatten(), wanted, first) & admitted.flatten()).view(totals.shape)
            spread = best.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
            rows, columns = _matrix_shape(topology.local(i).shape)
            chosen.append(spread[:rows, :columns].reshape(topology.local(i).shape))
        return topology.from_tensors(chosen)


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _better_is_larger(topology: Topology, layer: int, scores: Scores | None, largest: bool) -> Tensor:
    if scores is None:
        return topology.random(layer)
    values = scores.tensors[layer].detach().float()
    if not torch.isfinite(values).all():
        raise ValueError(f"scores of layer '{topology.layers[layer].name}' hold NaN or infinity")
    if not scores.signed:
        values = values.abs()
    return values if largest else -values


def _grouped(tensor: Tensor, size: int) -> Tensor:
    """[rows, groups, size] of a layer's tensor; padded with zeros."""
    rows, columns = _matrix_shape(tensor.shape)
    matrix = tensor.reshape(rows, columns)
    padding = -columns % size
    if padding:
        matrix = F.pad(matrix, (0, padding))
    return matrix.view(rows, -1, size)


def _ungrouped(groups: Tensor, shape: Sequence[int]) -> Tensor:
    rows, columns = _matrix_shape(shape)
    return groups.reshape(rows, -1)[:, :columns].reshape(tuple(shape))


def _block_sums(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """[block rows, block columns]: the sum over each block of the matrix [out, in * kernel]; padded with zeros."""
    height, width = _matrix_shape(tensor.shape)
    matrix = tensor.reshape(height, width)
    if height % rows or width % columns:
        matrix = F.pad(matrix, (0, -width % columns, 0, -height % rows))
    return F.avg_pool2d(matrix[None, None], (rows, columns), divisor_override=1)[0, 0]


_FEW = 8
_INDEX_BITS = 30


def _best(keys: Tensor, counts: Tensor, first: Tensor | None) -> Tensor:
    """Marks the ``counts`` largest keys of the last dimension, of equal ones those of the lowest index.

    Args:
        keys: float32 [..., n]; may be overwritten.
        counts: int64 [...].
        first: bool [..., n]; these come before all others.
    """
    chosen = torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    most = min(int(counts.max()), keys.shape[-1]) if counts.numel() else 0
    if most == 0:
        return chosen
    if first is None and most <= _FEW and keys.shape[-1] <= 64:
        for turn in range(most):
            place = keys.argmax(-1, keepdim=True)
            chosen.scatter_(-1, place, (counts > turn).unsqueeze(-1))
            keys.scatter_(-1, place, -math.inf)
        return chosen
    places = _unique(keys, first).topk(most, dim=-1).indices
    taken = torch.arange(most, device=keys.device) < counts.unsqueeze(-1)
    return chosen.scatter_(-1, places, taken.expand(places.shape))


def _unique(keys: Tensor, first: Tensor | None) -> Tensor:
    """Whole numbers that order like the keys and then by index, so that no two are equal on any device."""
    bits = (keys + 0.0).view(torch.int32)  # no negative zeros
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << _INDEX_BITS
    ordered += torch.arange((1 << _INDEX_BITS) - 1, (1 << _INDEX_BITS) - 1 - keys.shape[-1], -1, device=keys.device)
    return ordered if first is None else ordered + (first.to(torch.int64) << 62)
