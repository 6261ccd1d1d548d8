"""What is checked, and said, of a method's initial masks."""

from __future__ import annotations

import logging
from typing import Final

from itop.context import Context
from itop.criteria.initial import InitialMasks

_logger = logging.getLogger(__name__)

NEAR: Final = 0.05
"""How far from the number asked for, as a share of it, is not worth a word."""


def require_data(method: str, initial: InitialMasks, context: Context) -> None:
    """Raises ValueError where initial masks need training batches and the engine was given none."""
    if initial.needs_data and context.data is None:
        raise ValueError(
            f"method '{method}' chooses its masks by training batches: give SparseEngine batches=..., something that "
            "can be iterated over (inputs, targets), and loss=... where it is not cross-entropy"
        )


def warn_where_inexact(context: Context, method: str) -> None:
    """Logs a warning if the initial masks are far from the density asked for; whole fan-ins and blocks are never none."""
    active, asked = sum(context.topology.num_active), context.target_total
    if abs(active - asked) > NEAR * asked:
        _logger.warning(
            "method '%s' keeps %d weights where the sparsity asks for %d: its pattern admits no number nearer",
            method,
            active,
            asked,
        )
