"""Indices that the kernels derive from a pattern, kept beside it as long as it lives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop import _core
from itop.nn.layouts import BlockSize, ConvolutionLayout, InputGradient
from itop.nn.lent_memory import lent_tensor
from itop.nn.pattern import SparsePattern

_VALUE_TYPES = {
    torch.float32: _core.ValueType.FLOAT32,
    torch.float64: _core.ValueType.FLOAT64,
    torch.bfloat16: _core.ValueType.BFLOAT16,
}

SUPPORTED_DTYPES = frozenset(_VALUE_TYPES)
"""What the kernels compute with."""


def value_type(tensor: Tensor) -> _core.ValueType:
    """Raises:
    TypeError: If the type is none that the kernels compute with.
    """
    found = _VALUE_TYPES.get(tensor.dtype)
    if found is None:
        raise TypeError(f"sparse layers compute in float32, float64 or bfloat16, got {tensor.dtype}")
    return found


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class DerivedIndices:
    """What kernels derive from a pattern and keep beside it."""

    __slots__ = ()

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]: ...


def empty_gradients(
    x: Tensor, values: Tensor, num_outputs: int, needs_x: bool, needs_values: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a backward pass writes: gradients of the input, the values and the bias; what is not needed has no element."""
    grad_x = lent_tensor(x.shape if needs_x else (0,), x.dtype)
    grad_values = lent_tensor(values.shape if needs_values else (0,), values.dtype)
    return grad_x, grad_values, values.new_empty(num_outputs if needs_bias else 0)


@final
@dataclass(frozen=True, slots=True)
class Blocked(DerivedIndices):
    """A native pattern and the tensors it borrows."""

    native: _core.SparsePattern
    borrowed: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.borrowed


@final
@dataclass(frozen=True, slots=True)
class ColumnOrder(DerivedIndices):
    """A pattern's entries in column order."""

    pointers: Tensor
    rows: Tensor
    permutation: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.pointers, self.rows, self.permutation


def cached_bytes(pattern: SparsePattern) -> int:
    """Memory of derived indices."""
    seen: dict[int, int] = {}
    for entry in pattern.kernel_cache.values():
        if isinstance(entry, DerivedIndices):
            seen.update((tensor.data_ptr(), tensor.nbytes) for tensor in entry.tensors)
    own = {pattern.columns.data_ptr(), pattern.row_pointers.data_ptr()}
    return sum(size for place, size in seen.items() if place not in own)


def block(
    shape: tuple[int, int],
    pointers: Tensor,
    columns: Tensor,
    width: int,
    permutation: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Blocked:
    """Block starts by ``columns``; kernels then read ``offsets`` where given."""
    rows, num_columns = shape
    width = max(1, min(width, num_columns))
    num_blocks = max(1, -(-num_columns // width))
    starts = torch.empty(num_blocks + 1, rows, dtype=torch.int32)
    _core.sparse_block_starts(rows, num_columns, pointers.data_ptr(), columns.data_ptr(), width, starts.data_ptr())
    kept = columns if offsets is None else offsets
    native = _core.SparsePattern(rows, num_columns, width, starts.data_ptr(), kept.data_ptr(), address(permutation))
    return Blocked(native, (starts, kept) if permutation is None else (starts, kept, permutation))


def in_column_order(pattern: SparsePattern) -> ColumnOrder:
    known: ColumnOrder | None = pattern.kernel_cache.get("transposed")
    if known is None:
        rows, columns = pattern.shape
        known = ColumnOrder(
            torch.empty(columns + 1, dtype=torch.int64),
            torch.empty(pattern.num_active, dtype=torch.int32),
            torch.empty(pattern.num_active, dtype=torch.int32),
        )
        _core.sparse_transpose(
            rows,
            columns,
            pattern.row_pointers.data_ptr(),
            pattern.columns.data_ptr(),
            known.pointers.data_ptr(),
            known.rows.data_ptr(),
            known.permutation.data_ptr(),
        )
        pattern.kernel_cache["transposed"] = known
    return known


def batch_class(batch: int) -> int:
    """Batches that share a choice: powers of two."""
    return 1 << max(0, batch - 1).bit_length()


def density_class(pattern: SparsePattern) -> str:
    return f"{pattern.num_active / max(1, pattern.numel):.1e}"


def chosen_layouts(pattern: SparsePattern) -> dict[str, str]:
    """What was chosen so far, in words: operator and batch (rounded up to a power of two) -> layout."""
    words: dict[str, str] = {}
    for key, entry in pattern.kernel_cache.items():
        if isinstance(entry, (BlockSize, InputGradient)):
            words[f"{key[0]}, batch {key[1]}"] = entry.value
        elif isinstance(entry, ConvolutionLayout):
            direction = "backward" if key[5] else "forward"
            words[f"convolution {direction}, {key[2][0]}x{key[2][1]} images, batch {key[3]}"] = entry.value
    return words
