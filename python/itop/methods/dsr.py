"""Dynamic sparse reparameterization (Mostafa & Wang, ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.grow import RandomGrowth
from itop.criteria.redistribution import SurvivorRedistribution
from itop.methods.method import Method
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
        if isinstance(self.update_every, bool) or not isinstance(self.update_every, int) or self.update_every < 1:
            raise ValueError(f"update_every must be a whole number of steps, at least 1, got {self.update_every!r}")
        if not 0.0 < self.fraction < 1.0 or not self.threshold > 0.0:
            raise ValueError(
                f"fraction must be in (0, 1) and threshold above 0, got {self.fraction!r} and {self.threshold!r}"
            )

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
