"""RigL's rules on active weights that have a shape: N of M, blocks."""

from __future__ import annotations

from itop.allocation import AllocationLike
from itop.criteria.grow import GradientGrowth, GrowCriterion, RandomGrowth
from itop.criteria.patterns import Blocks, NofM
from itop.methods.composed import takes_density
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import CosineDropFraction, Every


@takes_density
def NMDynamic(
    update_every: int = 100,
    m: int = 16,
    drop_fraction: float = 0.3,
    until: float = 0.75,
    by_gradient: bool = True,
    allocation: AllocationLike = "erk",
) -> DropAndGrow:
    """Dynamic N:M sparsity: of each m consecutive weights at most n are active; each group grows what it dropped.

    n is the density of a layer times m, rounded up; where the layer's number is no multiple of its groups, some of them,
    evenly spread, have one less, so that it is exact. Hardware that wants one n everywhere, as in 2:4, wants
    allocation=uniform and a density that is a multiple of 1 / m, as m=4 at 50 %.

    Args:
        update_every: dT in steps.
        m: Weights in a group.
        drop_fraction: Annealed to 0 by a half cosine at ``until`` of the run.
        by_gradient: Grow by gradient magnitude; otherwise at random.
    """
    return DropAndGrow(
        label="nm",
        update_schedule=Every(update_every, until=until),
        drop_fraction=CosineDropFraction(drop_fraction, 0.0, until=until),
        grow=_growth(by_gradient),
        pattern=NofM(m),
        allocation=allocation,
    )


@takes_density
def BlockDynamic(
    update_every: int = 100,
    rows: int = 4,
    columns: int = 4,
    drop_fraction: float = 0.3,
    until: float = 0.75,
    by_gradient: bool = True,
    allocation: AllocationLike = "erk",
) -> DropAndGrow:
    """Dynamic block sparsity: blocks of weights are dropped and grown as a whole, by the sums of their magnitudes.

    A layer has the number of blocks nearest to its density, at least one: the number of weights is not exact.

    Args:
        update_every: dT in steps.
        rows, columns: Of a block, in the matrix ``[out, in * kernel]``.
        drop_fraction: Annealed to 0 by a half cosine at ``until`` of the run.
        by_gradient: Grow by gradient magnitude; otherwise at random.
    """
    return DropAndGrow(
        label="block",
        update_schedule=Every(update_every, until=until),
        drop_fraction=CosineDropFraction(drop_fraction, 0.0, until=until),
        grow=_growth(by_gradient),
        pattern=Blocks(rows, columns),
        allocation=allocation,
    )


def _growth(by_gradient: bool) -> GrowCriterion:
    return GradientGrowth() if by_gradient else RandomGrowth()
