"""Blocks of weights as a topology of their own: the core selects among blocks as it selects among weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from itop import _core
from itop.criteria.group_quota import is_by_rows_on_host
from itop.layers import matrix_shape
from itop.selection import BitSet, Quota, Scores
from itop.topology import Topology


@final
@dataclass(frozen=True, slots=True)
class BlockQuota(Quota):
    """So many whole blocks of each layer; a block's score is the sum of those of its weights.

    A block is a candidate where any of its weights is. Equal sums are told apart as equal scores of weights are.
    """

    rows: int
    columns: int
    counts: Sequence[int]

    def select(
        self, topology: Topology, candidates: BitSet, scores: Scores | None, *, largest: bool, preferred: BitSet | None
    ) -> BitSet:
        blocks = BlockSets(topology, self.rows, self.columns)
        sums = None if scores is None else blocks.sums(scores)
        among = blocks.touched_by(candidates)
        if preferred is None:
            return blocks.weights(blocks.best(among, self.counts, sums, largest=largest))
        first = blocks.touched_by(candidates & preferred)
        chosen = blocks.best(first, self.counts, sums, largest=largest)
        rest = [count - have for count, have in zip(self.counts, chosen.count(topology.stream), strict=True)]
        others = blocks.best(among.difference(first, topology.stream), rest, sums, largest=largest)
        return blocks.weights(chosen.union(others, topology.stream))


@final
class BlockSets:
    """Sets of the blocks of a model's layers, each layer cut into ``rows x columns`` as a matrix ``[out, in * kernel]``.

    Those at the edge may be smaller.
    """

    def __init__(self, topology: Topology, rows: int, columns: int) -> None:
        self._topology = topology
        self._block = (rows, columns)
        self._shapes = [matrix_shape(layer.shape) for layer in topology.layers]
        self._grids = [(math.ceil(height / rows), math.ceil(width / columns)) for height, width in self._shapes]
        self._is_native = is_by_rows_on_host(topology)
        layers = [
            (layer.name, 0, [1, 1, 1, height * width], [0, 0, 0, 1])
            for layer, (height, width) in zip(topology.layers, self._grids, strict=True)
        ]
        index = topology.device.index if topology.device.index is not None else 0
        self._store = _core.MaskStore(layers, topology.device.type, index, topology.seed, topology.stream)

    def touched_by(self, weights: BitSet) -> _core.BitSets:
        """The blocks of which any weight is in the set."""
        result = self._store.empty(self._topology.stream)
        for i, shape in enumerate(self._shapes):
            if self._is_native:
                _core.blocks_with_any(weights.native, result, i, shape, self._block)
            else:
                touched = self._sums(weights.to_tensor(i).float()) > 0
                result.pack(i, touched.contiguous(), self._topology.stream)
        return result

    def weights(self, blocks: _core.BitSets) -> BitSet:
        """The weights of blocks."""
        topology = self._topology
        result = topology.empty()
        for i, (height, width) in enumerate(self._shapes):
            if self._is_native:
                _core.weights_of_blocks(blocks, result.native, i, (height, width), self._block)
                continue
            grid = torch.empty(self._grids[i], dtype=torch.bool, device=topology.device)
            blocks.unpack(i, grid, topology.stream)
            spread = grid.repeat_interleave(self._block[0], 0).repeat_interleave(self._block[1], 1)
            mask = spread[:height, :width].reshape(topology.local(i).shape)
            result.native.pack(i, topology.in_storage_order(i, mask), topology.stream)
        return result

    def sums(self, scores: Scores) -> list[Tensor]:
        """Of each layer the sums of the scores of every block, float32 [block rows, block columns]."""
        result = []
        for i, tensor in enumerate(scores.tensors):
            values = tensor.detach().float()
            if self._is_native:
                total = torch.empty(self._grids[i], dtype=torch.float32)
                _core.block_sums(
                    values.contiguous(), self._shapes[i], self._block, magnitude=not scores.signed, sums=total
                )
            else:
                total = self._sums(values if scores.signed else values.abs())
            result.append(total)
        return result

    def best(
        self, candidates: _core.BitSets, k: Sequence[int], sums: Sequence[Tensor] | None, *, largest: bool
    ) -> _core.BitSets:
        """The k best blocks of each layer by their sums; uniformly at random without."""
        return self._store.select(
            candidates,
            [None] * len(self._shapes) if sums is None else sums,
            magnitude=sums is None,
            largest=largest,
            k=k,
            across_layers=False,
            update=self._topology.num_updates,
            draw=self._topology.next_draw(),
            reduction=None,
            stream=self._topology.stream,
        )

    def _sums(self, tensor: Tensor) -> Tensor:
        """Down the columns of each block, then along its row: the order of the core's sums, so that bits are the same."""
        rows, columns = self._block
        matrix = tensor.reshape(matrix_shape(tensor.shape))
        height, width = matrix.shape
        matrix = F.pad(matrix, (0, -width % columns, 0, -height % rows))
        down = torch.zeros_like(matrix[::rows])
        for row in range(rows):
            down = down + matrix[row::rows]
        total = torch.zeros_like(down[:, ::columns])
        for column in range(columns):
            total = total + down[:, column::columns]
        return total.contiguous()
