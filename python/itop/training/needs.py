"""What a method may ask of the training it takes part in.

Most methods are content with ``optimizer.step()`` and need nothing from here. One that needs more says so by having the
method of a protocol below; the trainer looks for the protocol and never for a method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import Method

__all__ = ["AddsToLoss", "Batch", "FitsToTraining", "RoundEnd", "TrainingContext", "TrainsInRounds"]

Batch: TypeAlias = tuple[Tensor, Tensor]


@final
@dataclass(frozen=True, slots=True)
class TrainingContext:
    """What a method can learn of a run before the engine is made.

    Args:
        model: The network with its initial, still dense weights.
        batches: Starts anew over training batches (images, labels) on the model's device; the same for the same seed.
        loss: ``loss(outputs, labels)``, a scalar, as training will use it.
        total_steps: Optimiser steps of the run, all rounds together.
        steps_per_epoch: Optimiser steps of one epoch.
    """

    model: nn.Module
    batches: Callable[[], Iterator[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]
    total_steps: int
    steps_per_epoch: int


@runtime_checkable
class FitsToTraining(Protocol):
    """A method that depends on the run, such as on its data for its initial masks."""

    def fit_to(self, context: TrainingContext) -> Method:
        """The method to use for this run; must leave the model's weights and buffers as they were."""


@runtime_checkable
class AddsToLoss(Protocol):
    """A method with a regularisation term."""

    def penalty(self, engine: SparseEngine, model: nn.Module) -> Tensor:
        """A scalar that is added to the loss of every step."""


@final
@dataclass(frozen=True, slots=True)
class RoundEnd:
    """What a method that trains in rounds gets when one is over.

    Args:
        round_index: The round that has just ended, from 0.
        engine: Of the run.
        model: With the weights the round ended with; may be changed in place.
        optimizer: Of the run; its state may be cleared.
        rewind: ``model.state_dict()`` as it was after ``rewind_steps`` steps of the first round.
    """

    round_index: int
    engine: SparseEngine
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rewind: Mapping[str, Any]


@runtime_checkable
class TrainsInRounds(Protocol):
    """A method that trains, changes the network and trains again (lottery tickets): each round is a whole schedule."""

    num_rounds: int
    rewind_steps: int

    def end_round(self, end: RoundEnd) -> None:
        """Called after each round but the last."""
