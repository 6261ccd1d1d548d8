"""MEST (Yuan et al., MEST: accurate and fast memory-economic sparse training framework on the edge, NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.drop import MagnitudeAndGradientDrop
from itop.criteria.grow import RandomGrowth
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.methods.method import Method
from itop.ranges import FRACTION
from itop.schedules import AtFractions, DropFraction, EitherOf, Every, EveryEpoch, StepwiseDropFraction, UpdateSchedule
from itop.update_report import UpdateReport


@takes_density
@takes_pattern
def MEST(
    update_every: int | None = None,
    drop_fraction: float = 0.05,
    gradient_weight: float = 1.0,
    halves_at: float = 0.5,
    stops_at: float = 0.8,
    allocation: AllocationLike = "erk",
) -> DropAndGrow:
    """Elastic mutation: drops the smallest ``abs(w) + lambda abs(g)``, grows at random; P falls in steps to 0.

    Args:
        update_every: dT in steps. None: five epochs, once the training loop is known.
        drop_fraction: P at the start.
        halves_at, stops_at: Fractions of the run from which P is half of that, and none (?).
        gradient_weight: lambda (?).
    """
    return DropAndGrow(
        label="mest",
        update_schedule=_schedule(update_every),
        drop_fraction=_fractions(drop_fraction, halves_at, stops_at),
        drop=MagnitudeAndGradientDrop(gradient_weight),
        grow=RandomGrowth(),
        allocation=allocation,
    )


def _schedule(update_every: int | None) -> UpdateSchedule:
    return EveryEpoch(5) if update_every is None else Every(update_every)


def _fractions(drop_fraction: float, halves_at: float, stops_at: float) -> DropFraction:
    FRACTION.require("halves_at", halves_at)
    FRACTION.require("stops_at", stops_at)
    return StepwiseDropFraction((drop_fraction, drop_fraction / 2, 0.0), (halves_at, stops_at))


@final
@dataclass(frozen=True, slots=True)
class MESTSoft(Method):
    """Elastic mutation with a soft memory bound: each update prunes to the target, then grows beyond it.

    The P extra weights compete with the others until the next update prunes again, so that nothing is dropped for
    a newcomer that was never trained. From ``stops_at`` on the count is the target's.

    Args:
        update_every: dT in steps. None: five epochs, once the training loop is known.
        drop_fraction: P at the start.
        halves_at, stops_at: Fractions of the run from which P is half of that, and none (?).
        gradient_weight: lambda (?).
    """

    update_every: int | None = None
    drop_fraction: float = 0.05
    gradient_weight: float = 1.0
    halves_at: float = 0.5
    stops_at: float = 0.8
    allocation: AllocationLike = "erk"

    def __post_init__(self) -> None:
        self._fraction  # noqa: B018  checks itself
        self.schedule  # noqa: B018
        self._drop  # noqa: B018

    @property
    def name(self) -> str:
        return "mest-soft"

    @property
    def _fraction(self) -> DropFraction:
        return _fractions(self.drop_fraction, self.halves_at, self.stops_at)

    @property
    def _drop(self) -> MagnitudeAndGradientDrop:
        return MagnitudeAndGradientDrop(self.gradient_weight)

    @property
    def schedule(self) -> UpdateSchedule:
        return EitherOf((_schedule(self.update_every), AtFractions((min(1.0, self.stops_at + 1e-6),))))

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def for_loop(self, steps_per_epoch: int) -> Method:
        interval = EveryEpoch(5, steps_per_epoch).interval
        return replace(self, update_every=interval) if self.update_every is None else self

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        surplus = [
            max(0, active - target) for active, target in zip(topology.num_active, context.target_counts, strict=True)
        ]
        dropped = self._drop.drop_exactly(context, surplus)
        fraction = self._fraction(context.step, context.total_steps)
        is_last = context.step == context.total_steps
        counts = [
            0 if target == layer.numel or is_last else round(fraction * target)
            for layer, target in zip(topology.layers, context.target_counts, strict=True)
        ]
        grown = RandomGrowth().grow(context, ~topology.active, counts)
        return topology.commit(dropped, grown, drop_fraction=fraction, zero_all_inactive=context.zero_all_inactive)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "drop_fraction": self._fraction, "gradient_weight": self.gradient_weight}
