"""Scores by the curvature of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from itop.context import Context
from itop.criteria.averages import gradient_average, update_average
from itop.criteria.drop import ScoreDrop
from itop.ranges import LESS_THAN_ALL
from itop.selection import Scores

_CURVATURE = "curvature average"


@final
@dataclass(frozen=True, slots=True)
class CurvatureDrop(ScoreDrop):
    """The smallest ``h w^2 / 2``: the loss lost, to second order, if the weight went (LeCun et al., 1990, equation 6).

    h is the running average of squared gradients of minibatches: the diagonal of the empirical Fisher matrix, which
    stands for that of the Hessian near a minimum.

    Args:
        decay: Of that average.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        LESS_THAN_ALL.require("decay", self.decay)

    def observe(self, context: Context) -> None:
        update_average(context, _CURVATURE, self.decay, lambda gradient, weight: gradient.square())

    def scores(self, context: Context) -> Scores:
        curvature = gradient_average(context, _CURVATURE)
        if curvature is None:
            raise RuntimeError("curvature is averaged over steps; make at least one optimiser step before an update")
        return Scores(
            [h * weight.float().square() / 2 for h, weight in zip(curvature, context.topology.weights(), strict=True)]
        )
