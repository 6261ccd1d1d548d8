"""DST-EE (Huang et al., Balancing the exploration-exploitation trade-off, DAC 2023)."""

from __future__ import annotations

from itop.allocation import AllocationLike
from itop.criteria.grow import ExplorationBonusGrowth
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import CosineDropFraction, Every


@takes_density
@takes_pattern
def DSTEE(
    update_every: int = 100,
    drop_fraction: float = 0.3,
    until: float = 0.75,
    bonus: float = 1e-3,
    epsilon: float = 1.0,
    allocation: AllocationLike = "erk",
) -> DropAndGrow:
    """RigL's schedule; growth by gradient magnitude plus a bonus for weights that were rarely active.

    Args:
        update_every: dT in steps.
        drop_fraction: Annealed to 0 by a half cosine at ``until`` of the run.
        bonus: c (?); 0 is growth by gradient.
        epsilon: How much never-active weights stand out (?).
    """
    return DropAndGrow(
        label="dst-ee",
        update_schedule=Every(update_every, until=until),
        drop_fraction=CosineDropFraction(drop_fraction, 0.0, until=until),
        grow=ExplorationBonusGrowth(bonus, epsilon),
        allocation=allocation,
    )
