"""An engine for a trainer that has loaded weights and optimiser already when it asks for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from itop.distributed.shards import local_part
from itop.engine import SparseEngine
from itop.methods import Method


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    method: str | Method,
    options: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> SparseEngine:
    """An engine whose masks every rank holds alike; with a saved state it goes on from there.

    A new engine zeroes what its first masks leave out. Weights that a trainer has loaded before are put back, and then
    masked as the saved state says.

    Args:
        model: As the trainer runs it.
        optimizer: The trainer's; wrappers around an optimiser are looked through.
        method: A preset's name or a value.
        options: Further arguments of :class:`SparseEngine`.
        state: What ``engine.state_dict()`` gave.

    Raises:
        ValueError: What :class:`SparseEngine` refuses; on every rank.
    """
    inner = innermost(optimizer)
    if state is None:
        engine = SparseEngine(model, inner, method, **options)
    else:
        with _values_kept(inner):
            engine = SparseEngine(model, inner, method, **options)
        engine.load_state_dict(state)
    if dist.is_available() and dist.is_initialized():
        engine.check_sync()
    return engine


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimiser inside of wrappers that keep it as ``optimizer``."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


@contextmanager
def _values_kept(optimizer: Optimizer) -> Iterator[None]:
    """Parameters and the tensors of the optimiser's state are afterwards as they were."""
    tensors: list[Tensor] = [local_part(p) for group in optimizer.param_groups for p in group["params"]]
    tensors += [
        local_part(value)
        for of_parameter in optimizer.state.values()
        for value in of_parameter.values()
        if isinstance(value, Tensor)
    ]
    copies = [tensor.clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
