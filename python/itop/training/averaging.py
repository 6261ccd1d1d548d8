"""What the loop does with an optimiser that averages weights: it is told of validations, and its averages are what counts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.optim import Optimizer

from itop.engine import SparseEngine
from itop.methods import SNTASGD

__all__ = ["averages_in_place", "check_averaging", "end_with_averages", "note_validation"]


def check_averaging(optimizer: Optimizer, engine: SparseEngine, *, num_validation: int) -> None:
    """Raises ValueError where the averages of an optimiser would never begin, or would not be those of the network."""
    if not isinstance(optimizer, SNTASGD):
        return
    if num_validation == 0:
        raise ValueError(
            "optimizer 'snt-asgd' averages once validation improves no more: validation_fraction must be above 0"
        )
    if engine.hides_weights:
        raise ValueError(
            f"optimizer 'snt-asgd' would average the hidden weights of method '{engine.method.name}', which are not the "
            "network's; choose another optimiser"
        )


def averages_in_place(optimizer: Optimizer) -> AbstractContextManager[object]:
    """A context in which the model holds the averages, where there are some."""
    return optimizer.averaged() if isinstance(optimizer, SNTASGD) else nullcontext()


def note_validation(optimizer: Optimizer, loss: float) -> None:
    """Tells of the loss of the epoch that has ended."""
    if isinstance(optimizer, SNTASGD):
        optimizer.trigger(loss)


def end_with_averages(optimizer: Optimizer) -> None:
    """The finished network is that of the averages. Twice is as once."""
    if isinstance(optimizer, SNTASGD):
        optimizer.adopt_averages()
