"""Selfish-RNN (Liu et al., Selfish sparse RNN training, ICML 2021)."""

from __future__ import annotations

from itop.allocation import AllocationLike
from itop.criteria.grow import RandomGrowth
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import Every, EveryEpoch, falling_to


@takes_density
@takes_pattern
def SelfishRNN(
    update_every: int | None = None,
    drop_fraction: float = 0.5,
    final_drop_fraction: float = 0.0,
    allocation: AllocationLike = "uniform",
) -> DropAndGrow:
    """Magnitude drop over all gates of a cell together, random growth: gates with large weights gain connections.

    A recurrent weight holds its gates one below the other, so a layer's count is a cell's and its gates share it. Goes
    with :class:`SNTASGD`, whose averages restart where a weight was dropped. Other layers are treated alike.

    Args:
        update_every: dT in steps. None: an epoch, once the training loop is known.
        drop_fraction: P, 0.5 to 0.8 in the paper, annealed by a half cosine.
    """
    return DropAndGrow(
        label="selfish-rnn",
        update_schedule=EveryEpoch() if update_every is None else Every(update_every, last_step=False),
        drop_fraction=falling_to(drop_fraction, final_drop_fraction),
        grow=RandomGrowth(),
        allocation=allocation,
    )
