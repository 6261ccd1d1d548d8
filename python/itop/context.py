"""What a method may look at and change when it acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from itop.optimizer_group import OptimizerGroup
from itop.topology import Topology


@dataclass(slots=True)
class Context:
    """The engine's side of a method's work. A method is a frozen value; what it must remember lives in ``state``.

    Attributes:
        topology: Masks, weights, gradients; select and commit.
        model: The user's network, unwrapped.
        optimizer: The user's optimiser, or several in one view.
        target_counts: Active weights of each layer by the allocation.
        total_steps: The horizon of schedules, if known.
        step: Optimiser steps so far, the current one included.
        zero_all_inactive: Whether weights outside the active set may hold values now, which a commit must clear.
        state: The method's own, saved with the engine: numbers, strings, tensors, lists and dicts of them.
    """

    topology: Topology
    model: nn.Module
    optimizer: Optimizer | OptimizerGroup
    target_counts: list[int]
    total_steps: int | None
    step: int = 0
    zero_all_inactive: bool = False
    state: dict[str, Any] = field(default_factory=dict)
