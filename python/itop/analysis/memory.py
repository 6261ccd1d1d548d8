"""Bytes of a sparse training: topology, parameters and optimiser state, in both executions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from itop.analysis.layer import Layer, check_layers

_BITSETS = 3  # active, explored, reliable
_WORD_BYTES = 8


@final
@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that stay allocated between steps; activations and gradients are not among them.

    Attributes:
        topology: Active, explored and reliable bits.
        parameters: Weights and, in truly sparse execution, their indices.
        optimizer: The optimiser's state of the weights.
    """

    topology: int
    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.topology + self.parameters + self.optimizer


@final
@dataclass(frozen=True, slots=True)
class OptimizerState:
    """What an optimiser keeps for each weight: one tensor for momentum, two for Adam.

    Args:
        num_tensors: Tensors of a weight's shape, at least 0.
        bytes_per_value: Of each of their values, at least 1.
    """

    num_tensors: int
    bytes_per_value: int = 4

    def __post_init__(self) -> None:
        if self.num_tensors < 0:
            raise ValueError(f"num_tensors must not be negative, got {self.num_tensors}")
        if self.bytes_per_value < 1:
            raise ValueError(f"bytes_per_value must be at least 1, got {self.bytes_per_value}")

    @property
    def bytes_per_weight(self) -> int:
        return self.num_tensors * self.bytes_per_value


@final
@dataclass(frozen=True, slots=True)
class SparseFormat:
    """Compressed rows: a value and a column index per active weight, one offset per row and one more.

    Args:
        index_bytes: Of a column index.
        offset_bytes: Of a row's offset.
        column_ordered: Whether a second, column-ordered copy of the structure is kept for the input gradient: a row
            index and a position per active weight, one offset per column and one more.
    """

    index_bytes: int = 4
    offset_bytes: int = 8
    column_ordered: bool = False

    def __post_init__(self) -> None:
        for name in ("index_bytes", "offset_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def index_memory(self, layer: Layer) -> int:
        """Bytes of a layer's indices and offsets; a convolution's columns are all weights of an output channel."""
        rows, columns = layer.shape[0], layer.numel // layer.shape[0]
        size = layer.num_active * self.index_bytes + (rows + 1) * self.offset_bytes
        if self.column_ordered:
            size += 2 * layer.num_active * self.index_bytes + (columns + 1) * self.offset_bytes
        return size


def topology_memory(layers: Sequence[Layer]) -> int:
    """Bytes of three bits a weight, each layer's bitsets rounded up to words of 64."""
    check_layers(layers)
    return sum(_BITSETS * _WORD_BYTES * -(-layer.numel // 64) for layer in layers)


def masked_memory(layers: Sequence[Layer], optimizer: OptimizerState, bytes_per_weight: int = 4) -> MemoryUse:
    """Dense tensors with exact zeros: what a mask does not save."""
    numel = sum(layer.numel for layer in layers)
    return MemoryUse(topology_memory(layers), numel * bytes_per_weight, numel * optimizer.bytes_per_weight)


def truly_sparse_memory(
    layers: Sequence[Layer],
    optimizer: OptimizerState,
    bytes_per_weight: int = 4,
    sparse_format: SparseFormat | None = None,
    track_exploration: bool = True,
) -> MemoryUse:
    """Values and indices only, in proportion to the active weights.

    Args:
        layers: At the densities of interest.
        optimizer: State per active weight.
        bytes_per_weight: Of a value.
        sparse_format: ``SparseFormat()`` by default.
        track_exploration: Whether explored and reliable bits are kept; they cost two bits for every weight, active or
            not. Active bits are never kept: the indices say it.
    """
    check_layers(layers)
    form = sparse_format or SparseFormat()
    active = sum(layer.num_active for layer in layers)
    bits = topology_memory(layers) // _BITSETS * (_BITSETS - 1) if track_exploration else 0
    indices = sum(form.index_memory(layer) for layer in layers)
    return MemoryUse(bits, active * bytes_per_weight + indices, active * optimizer.bytes_per_weight)
