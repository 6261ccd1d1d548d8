"""Sparse networks from scratch (Dettmers & Zettlemoyer, Sparse networks from scratch: faster training, 2019)."""

from __future__ import annotations

from itop.allocation import AllocationLike
from itop.criteria.grow import MomentumGrowth
from itop.criteria.redistribution import MomentumRedistribution, Redistribution, SameLayer
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import Every, EveryEpoch, falling_to


@takes_density
@takes_pattern
def SNFS(
    update_every: int | None = None,
    drop_fraction: float = 0.5,
    final_drop_fraction: float = 0.005,
    momentum: float = 0.9,
    redistributes: bool = True,
    allocation: AllocationLike = "uniform",
) -> DropAndGrow:
    """Sparse momentum: the smallest weights of each layer go, layers and sites of large momentum gain.

    Keeps an average of the dense gradient, 4 bytes a weight, 8 beside an optimiser of Adam's kind.

    Args:
        update_every: dT in steps. None: an epoch, once the training loop is known.
        drop_fraction: P at the start, annealed by a half cosine to ``final_drop_fraction``.
        momentum: Decay of the gradient average.
        redistributes: Whether layers gain and lose connections; otherwise only sites within a layer do.
    """
    growth = MomentumGrowth(momentum)
    redistribution: Redistribution = MomentumRedistribution(growth) if redistributes else SameLayer()
    return DropAndGrow(
        label="snfs",
        update_schedule=EveryEpoch() if update_every is None else Every(update_every, last_step=False),
        drop_fraction=falling_to(drop_fraction, final_drop_fraction),
        grow=growth,
        redistribution=redistribution,
        allocation=allocation,
    )
