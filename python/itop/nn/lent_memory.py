"""Tensors in memory that earlier results have left: fresh pages of the system cost as much time as a product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from itop import _core

_LARGE = 1 << 18


def lent_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; a large one is in memory that the core keeps between calls."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _LARGE:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(_core.lend_bytes(num_bytes), dtype=dtype).view(shape)
