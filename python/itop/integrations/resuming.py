"""An engine for a trainer that may have loaded weights and optimiser already when it asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

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

    Args:
        model: As the trainer runs it.
        optimizer: The trainer's; wrappers around an optimiser are looked through.
        method: A preset's name or a value.
        options: Further arguments of :class:`SparseEngine`.
        state: What ``engine.state_dict()`` gave.

    Raises:
        ValueError: What :class:`SparseEngine` refuses; on every rank.
    """
    engine = SparseEngine(model, innermost(optimizer), method, **options)
    if state is not None:
        engine.load_state_dict(state)
    if dist.is_available() and dist.is_initialized():
        engine.check_sync()
    return engine


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimiser inside of wrappers that keep it as ``optimizer``."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


class EngineOfTrainer:
    """What the callbacks of trainers share: they make the engine when a run begins, maybe again for the next run.

    Args:
        method: A preset's name or a value.
        **options: Further arguments of :class:`SparseEngine`; ``total_steps`` is the trainer's own where it is not given.

    Attributes:
        engine: None before a run has begun.
    """

    def __init__(self, method: str | Method = "set-itop", **options: Any) -> None:
        self.engine: SparseEngine | None = None
        self._method = method
        self._options = options

    def begin(
        self, model: nn.Module, optimizer: Optimizer, total_steps: int | None, state: Mapping[str, Any] | None
    ) -> None:
        """A run begins; with a saved state it goes on from there.

        Raises:
            ValueError: What :class:`SparseEngine` refuses; on every rank.
        """
        if self.engine is not None:
            self.engine.detach()
        self.engine = attach(model, optimizer, self._method, {"total_steps": total_steps, **self._options}, state)
