"""Weights and optimiser state as they were before the first masks, until training begins: a checkpoint may want them back.

Who loads a model's weights, then makes the engine, then loads the engine's state has weights outside of the fresh first
masks that the saved masks keep. They are put back before the saved masks are applied: all orders of loading are right.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class ValuesBefore:
    """Copies of tensors, and what tells whether anybody but the engine has written to them since.

    The engine only sets places to zero, and by its native code, which no version shows.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kept = [(tensor, tensor.clone(), tensor._version) for tensor in tensors]

    @torch.no_grad()
    def put_back(self) -> None:
        """Tensors that only the engine has changed are as they were; what others have loaded since stays theirs."""
        for tensor, before, version in self._kept:
            if tensor._version == version and bool(((tensor == before) | (tensor == 0)).all()):
                tensor.copy_(before)
