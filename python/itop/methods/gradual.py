"""From dense to sparse along a ramp, and RigL's rules while the density falls."""

from __future__ import annotations

from itop.allocation import AllocationLike
from itop.criteria.curvature import CurvatureDrop
from itop.criteria.drop import MagnitudeDrop, ScoreDrop, TaylorDrop
from itop.criteria.grow import GradientGrowth
from itop.criteria.initial import RandomMasksOfDensity
from itop.methods.composed import takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.schedules import ConstantDropFraction, DensityRamp, Every, falling_to


@takes_pattern
def GMP(
    update_every: int = 100,
    start: float = 0.0,
    end: float = 0.75,
    initial_density: float = 1.0,
    across_layers: bool = False,
    allocation: AllocationLike = "uniform",
) -> DropAndGrow:
    """Gradual magnitude pruning: each layer follows a cubic ramp from dense to its target.

    Narang et al., 2017; Zhu & Gupta, 2017; Gale et al., 2019.

    Args:
        update_every: Steps between prunings (?).
        start, end: Of the ramp, as fractions of the run (?).
        initial_density: Before it; 1 is dense.
        across_layers: Whether all layers compete.
    """
    return _ramp("gmp", MagnitudeDrop(), update_every, start, end, initial_density, across_layers, allocation)


@takes_pattern
def TaylorPruning(
    update_every: int = 100,
    start: float = 0.0,
    end: float = 0.75,
    decay: float = 0.9,
    across_layers: bool = True,
    allocation: AllocationLike = "uniform",
) -> DropAndGrow:
    """Pruning along a cubic ramp by ``(g w)^2``, averaged over steps (Molchanov et al., CVPR 2019).

    Args:
        update_every: Steps between prunings (?).
        start, end: Of the ramp, as fractions of the run (?).
        decay: Of the running average of scores.
        across_layers: Whether all layers compete.
    """
    return _ramp("taylor", TaylorDrop(decay), update_every, start, end, 1.0, across_layers, allocation)


@takes_pattern
def OBD(
    update_every: int = 100,
    start: float = 0.0,
    end: float = 0.75,
    decay: float = 0.9,
    across_layers: bool = True,
    allocation: AllocationLike = "uniform",
) -> DropAndGrow:
    """Optimal brain damage: pruning along a cubic ramp by ``h w^2 / 2`` (LeCun et al., 1990).

    The diagonal h of the Hessian is taken as the running average of squared minibatch gradients (the empirical Fisher).

    Args:
        update_every: Steps between prunings (?).
        start, end: Of the ramp, as fractions of the run (?).
        decay: Of that average.
        across_layers: Whether all layers compete.
    """
    return _ramp("obd", CurvatureDrop(decay), update_every, start, end, 1.0, across_layers, allocation)


@takes_pattern
def GraNet(
    update_every: int = 1000,
    initial_density: float = 1.0,
    end: float = 0.75,
    drop_fraction: float = 0.5,
    final_drop_fraction: float = 0.005,
    allocation: AllocationLike = "erk",
) -> DropAndGrow:
    """GraNet: a global magnitude prune to a cubic ramp, then drop P and regrow by gradient, in each update.

    Liu et al., Sparse training via boosting pruning plasticity with neuroregeneration, NeurIPS 2021.

    Args:
        update_every: dT in steps; 1000 on CIFAR, 4000 on ImageNet.
        initial_density: 1 is dense to sparse; 0.5 is the paper's sparse to sparse.
        end: Of the ramp, as a fraction of the run (?).
        drop_fraction: P, annealed by a half cosine.
    """
    ramp = DensityRamp(initial_density, 0.0, end)
    return DropAndGrow(
        label="granet",
        update_schedule=ramp.updates(Every(update_every)),
        drop_fraction=falling_to(drop_fraction, final_drop_fraction),
        grow=GradientGrowth(),
        initial=RandomMasksOfDensity(initial_density),
        allocation=allocation,
        ramp=ramp,
        shrink_across_layers=True,
    )


def _ramp(
    label: str,
    criterion: ScoreDrop,
    update_every: int,
    start: float,
    end: float,
    initial_density: float,
    across_layers: bool,
    allocation: AllocationLike,
) -> DropAndGrow:
    ramp = DensityRamp(initial_density, start, end)
    return DropAndGrow(
        label=label,
        update_schedule=ramp.updates(Every(update_every, until=end)),
        drop_fraction=ConstantDropFraction(0.0),
        initial=RandomMasksOfDensity(initial_density),
        allocation=allocation,
        ramp=ramp,
        shrink=criterion,
        shrink_across_layers=across_layers,
    )
