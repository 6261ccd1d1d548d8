"""Dynamic sparse reparameterization (Mostafa & Wang, ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.grow import RandomGrowth
from itop.criteria.redistribution import SurvivorRedistribution
from itop.methods.method import Method
from itop.ranges import FRACTION, POSITIVE, PROPER_FRACTION, require_count
from itop.schedules import UpdateSchedule
from itop.selection import Scores
from itop.update_report import UpdateReport

_THRESHOLD = "threshold"


@final
@dataclass(frozen=True, slots=True)
class DoublingInterval(UpdateSchedule):
    """Every ``interval`` steps, twice as many after each boundary.

    Args:
        interval: At the start, at least 1.
        boundaries: Fractions of the run.
    """

    interval: int
    boundaries: tuple[float, ...]

    @property
    def needs_total_steps(self) -> bool:
        return bool(self.boundaries)

    def mean_interval(self, total_steps: int | None) -> float | None:
        return float(self.interval)

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        doublings = sum(step > boundary * (total_steps or 0) for boundary in self.boundaries)
        return step % (self.interval << doublings) == 0


@final
@dataclass(frozen=True, slots=True)
class DSR(Method):
    """Weights below one adaptive threshold go, whatever their layer; layers gain in proportion to what they have left.

    The threshold halves when over 1.1 times the number aimed at lie below it and doubles when under 0.9 times do. Growth
    is uniform and never takes the weights just dropped, so no more go than there are free sites.

    Args:
        update_every: dT in steps at the start.
        fraction: Of active weights that an update aims to prune (?).
        threshold: H at the start (?).
        doubles_at: Fractions of the run where the interval doubles; epochs 25, 50 and 75 of 100 in the paper (?).
        allocation: Where connections are before they move (?).
    """

    update_every: int = 1000
    fraction: float = 0.05
    threshold: float = 1e-3
    doubles_at: tuple[float, ...] = (0.25, 0.5, 0.75)
    allocation: AllocationLike = "erk"

    def __post_init__(self) -> None:
        require_count("update_every", self.update_every)
        PROPER_FRACTION.require("fraction", self.fraction)
        POSITIVE.require("threshold", self.threshold)
        if not isinstance(self.doubles_at, (list, tuple)):
            raise ValueError(f"doubles_at must be fractions of the run, as in [0.25, 0.5], got {self.doubles_at!r}")
        for boundary in self.doubles_at:
            FRACTION.require("each of doubles_at", boundary)

    @property
    def name(self) -> str:
        return "dsr"

    @property
    def schedule(self) -> UpdateSchedule:
        return DoublingInterval(self.update_every, tuple(self.doubles_at))

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        threshold = float(context.state.get(_THRESHOLD, self.threshold))
        weights = topology.weights()
        # Selecting all of them again refuses NaN, which compares with nothing.
        small = topology.active & topology.where(weights, limit=threshold, magnitude=True)
        room = [layer.numel - count for layer, count in zip(topology.layers, topology.num_active, strict=True)]
        below = sum(small.counts())
        count = min(below, sum(room))
        dropped = topology.select(small, count, Scores(weights), largest=False)
        num_dropped = dropped.counts()
        counts = SurvivorRedistribution().grow_counts(context, num_dropped, room)
        grown = RandomGrowth().grow(context, ~topology.active, counts)
        aimed = self.fraction * sum(topology.num_active)
        if below > 1.1 * aimed:
            context.state[_THRESHOLD] = threshold / 2
        elif below < 0.9 * aimed:
            context.state[_THRESHOLD] = threshold * 2
        else:
            context.state[_THRESHOLD] = threshold
        return topology.commit(dropped, grown, zero_all_inactive=context.zero_all_inactive)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "fraction": self.fraction, "threshold": self.threshold}
