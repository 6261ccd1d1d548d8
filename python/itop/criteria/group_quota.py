"""So many weights in each group of consecutive weights of a row.

The core chooses where weights lie row by row in host memory; elsewhere torch does, and chooses the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from itop import _core
from itop.layers import matrix_shape
from itop.selection import BitSet, Quota, Scores
from itop.topology import Topology


@final
@dataclass(frozen=True, slots=True)
class GroupQuota(Quota):
    """So many weights in each group of consecutive weights of a row; of equal scores that of the lowest index.

    Attributes:
        sizes: Of a layer's groups, one a layer.
        targets: int32 [rows, groups in a row], one tensor a layer.
        present: Weights that count towards the targets already.
    """

    sizes: Sequence[int]
    targets: Sequence[Tensor]
    present: BitSet | None = None

    def select(
        self, topology: Topology, candidates: BitSet, scores: Scores | None, *, largest: bool, preferred: BitSet | None
    ) -> BitSet:
        if preferred is not None:
            first = self.select(topology, candidates & preferred, scores, largest=largest, preferred=None)
            rest = replace(self, present=first if self.present is None else self.present | first)
            return first | rest.select(topology, candidates - preferred, scores, largest=largest, preferred=None)
        if scores is None:
            scores, largest = Scores([topology.random(i) for i in range(len(topology.layers))], signed=True), True
        tensors = [tensor.detach().float() for tensor in scores.tensors]
        if is_by_rows_on_host(topology):
            chosen = _core.select_in_groups(
                candidates.native,
                [tensor.contiguous() for tensor in tensors],
                magnitude=not scores.signed,
                largest=largest,
                num_rows=[matrix_shape(layer.shape)[0] for layer in topology.layers],
                sizes=self.sizes,
                targets=[target.numpy() for target in self.targets],
                present=None if self.present is None else self.present.native,
            )
            return BitSet(topology, chosen)
        return topology.from_tensors(
            [
                self._best(topology, i, candidates, better_is_larger(topology, i, tensor, scores.signed, largest))
                for i, tensor in enumerate(tensors)
            ]
        )

    def _best(self, topology: Topology, layer: int, candidates: BitSet, keys: Tensor) -> Tensor:
        size = self.sizes[layer]
        counts = self.targets[layer].to(torch.int64)
        if self.present is not None:
            counts = counts - _grouped(self.present.to_tensor(layer), size).sum(-1)
        admitted = _grouped(candidates.to_tensor(layer), size)
        order = _grouped(keys, size).masked_fill(~admitted, -math.inf)
        rows, columns = matrix_shape(keys.shape)
        best = largest_of_each(order, counts) & admitted
        return best.reshape(rows, -1)[:, :columns].reshape(keys.shape)


def is_by_rows_on_host(topology: Topology) -> bool:
    """Whether the core finds the rows of every layer's matrix one behind the other in host memory."""
    weights = topology.weights()
    return topology.device.type == "cpu" and all(weight.is_contiguous() for weight in weights)


def row_counts(topology: Topology, among: BitSet) -> list[Tensor]:
    """How many weights of each row are in a set, int64, one tensor a layer."""
    if not is_by_rows_on_host(topology):
        return [mask.flatten(1).sum(1) for mask in among.to_tensors()]
    return [
        torch.from_numpy(_core.count_in_rows(among.native, i, layer.shape[0]))
        for i, layer in enumerate(topology.layers)
    ]


def better_is_larger(topology: Topology, layer: int, scores: Tensor, signed: bool, largest: bool) -> Tensor:
    """Scores turned such that the largest is the best; refuses NaN and infinity."""
    if not torch.isfinite(scores).all():
        raise ValueError(f"scores of layer '{topology.layers[layer].name}' hold NaN or infinity")
    values = scores if signed else scores.abs()
    return values if largest else -values


def largest_of_each(keys: Tensor, counts: Tensor) -> Tensor:
    """Marks the ``counts`` largest keys of the last dimension, of equal ones those of the lowest index.

    Args:
        keys: float32 [..., n].
        counts: int64 [...].
    """
    chosen = torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    most = min(int(counts.max()), keys.shape[-1]) if counts.numel() else 0
    if most <= 0:
        return chosen
    bits = (keys + 0.0).view(torch.int32)  # no negative zeros
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << _INDEX_BITS
    ordered += torch.arange((1 << _INDEX_BITS) - 1, (1 << _INDEX_BITS) - 1 - keys.shape[-1], -1, device=keys.device)
    places = ordered.topk(most, dim=-1).indices
    taken = torch.arange(most, device=keys.device) < counts.unsqueeze(-1)
    return chosen.scatter_(-1, places, taken.expand(places.shape))


_INDEX_BITS = 30


def _grouped(tensor: Tensor, size: int) -> Tensor:
    """[rows, groups, size] of a layer's tensor; padded with zeros."""
    rows, columns = matrix_shape(tensor.shape)
    matrix = tensor.reshape(rows, columns)
    padding = -columns % size
    if padding:
        matrix = F.pad(matrix, (0, padding))
    return matrix.view(rows, -1, size)
