"""Sparse evolutionary training (Mocanu et al., Nature Communications 2018) and its ITOP setting."""

from __future__ import annotations

from itop.allocation import AllocationLike, LastLayerDense, as_allocation
from itop.criteria.drop import SignedMagnitudeDrop
from itop.criteria.grow import RandomGrowth, UnexploredFirst
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import ConstantDropFraction, Every, EveryEpoch, falling_to


@takes_density
@takes_pattern
def SET(
    update_every: int | None = None,
    drop_fraction: float = 0.3,
    allocation: AllocationLike = "er",
    dense_output: bool = False,
) -> DropAndGrow:
    """SET as published: zeta of the smallest positive and of the largest negative weights, random growth, each epoch.

    Args:
        update_every: dT in steps. None: an epoch, once the training loop is known; 390 steps until then, an epoch of
            CIFAR-10 at batch 128.
        drop_fraction: zeta.
        allocation: Erdos-Renyi in the paper.
        dense_output: The paper leaves the output layer dense; here the sparsity asked for is that of all layers together,
            of which a dense one would take much.
    """
    return DropAndGrow(
        label="set",
        update_schedule=EveryEpoch() if update_every is None else Every(update_every, last_step=False),
        drop_fraction=ConstantDropFraction(drop_fraction),
        drop=SignedMagnitudeDrop(),
        grow=RandomGrowth(),
        allocation=LastLayerDense(as_allocation(allocation)) if dense_output else allocation,
    )


@takes_density
@takes_pattern
def SETITOP(
    update_every: int = 1500,
    drop_fraction: float = 0.5,
    final_drop_fraction: float = 0.005,
    allocation: AllocationLike = "erk",
    unexplored_first: bool = False,
) -> DropAndGrow:
    """SET in the setting of Liu et al. (ICML 2021): magnitude drop, random growth, dT 1500 for the whole run, cosine P.

    With ``unexplored_first``, weights that were never active are grown while there are any.
    """
    return DropAndGrow(
        label="set-itop",
        update_schedule=Every(update_every),
        drop_fraction=falling_to(drop_fraction, final_drop_fraction),
        grow=UnexploredFirst() if unexplored_first else RandomGrowth(),
        allocation=allocation,
    )
