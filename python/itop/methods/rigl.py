"""RigL (Evci et al., Rigging the Lottery, ICML 2020) and its ITOP setting."""

from __future__ import annotations

from itop.allocation import AllocationLike, Uniform
from itop.criteria.grow import GradientGrowth, UnexploredFirst
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.methods.method import UpdateTiming
from itop.schedules import CosineDropFraction, Every, falling_to


@takes_density
@takes_pattern
def RigL(
    update_every: int = 100,
    drop_fraction: float = 0.3,
    until: float = 0.75,
    allocation: AllocationLike = "erk",
    dense_first: bool = False,
) -> DropAndGrow:
    """RigL as published: growth by gradient; an update replaces that optimiser step, until 75 % of the run.

    A weight dropped and grown at once keeps its value: it was never gone.

    Args:
        update_every: dT in steps.
        drop_fraction: alpha, annealed to 0 by a half cosine at T_end.
        until: T_end as a fraction of the run.
        allocation: ERK in the paper, or uniform with a dense first layer.
        dense_first: Whether the first layer stays dense where the others are uniform.
    """
    if dense_first and allocation != "uniform":
        raise ValueError(f"a dense first layer goes with allocation 'uniform', got {allocation!r}")
    return DropAndGrow(
        label="rigl",
        update_schedule=Every(update_every, until=until),
        drop_fraction=CosineDropFraction(drop_fraction, 0.0, until=until),
        grow=GradientGrowth(),
        update_timing=UpdateTiming.REPLACES_STEP,
        regrown_keeps_value=True,
        allocation=Uniform(first_layer_dense=True) if dense_first else allocation,
    )


@takes_density
@takes_pattern
def RigLITOP(
    update_every: int = 4000,
    drop_fraction: float = 0.5,
    final_drop_fraction: float = 0.005,
    allocation: AllocationLike = "erk",
    unexplored_first: bool = False,
) -> DropAndGrow:
    """RigL in the setting of Liu et al. (ICML 2021): dT 4000 for the whole run, cosine P, after the optimiser's step.

    With ``unexplored_first``, weights that were never active are grown while there are any, by gradient among them.
    """
    return DropAndGrow(
        label="rigl-itop",
        update_schedule=Every(update_every),
        drop_fraction=falling_to(drop_fraction, final_drop_fraction),
        grow=UnexploredFirst(GradientGrowth()) if unexplored_first else GradientGrowth(),
        allocation=allocation,
    )
