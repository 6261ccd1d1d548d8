"""Dynamic sparse training in a loop of Hugging Face's accelerate.

>>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)                   # doctest: +SKIP
>>> engine = attach(accelerator, model, optimizer, "rigl", sparsity=0.9, total_steps=10_000)    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from itop.engine import SparseEngine
from itop.integrations import resuming
from itop.methods import Method

if TYPE_CHECKING:
    from accelerate import Accelerator


def attach(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    method: str | Method = "set-itop",
    **options: Any,
) -> SparseEngine:
    """An engine for what ``accelerator.prepare`` returned, saved and loaded by its ``save_state`` and ``load_state``.

    Args:
        accelerator: Whose ``prepare`` made the model and the optimiser.
        model: As it was returned: wrapped, and sharded where it is to be.
        optimizer: As it was returned.
        method: A preset's name or a value.
        **options: Further arguments of :class:`SparseEngine`. ``total_steps`` counts optimiser steps, not batches.

    Raises:
        ValueError: What :class:`SparseEngine` refuses; on every rank.
    """
    engine = resuming.attach(model, optimizer, method, options)
    accelerator.register_for_checkpointing(engine)
    return engine
