"""Dynamic methods made of parts: when, how much, which weights are dropped, which grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from itop.allocation import AllocationLike
from itop.analysis.training_flops import RigLTraining, SNFSTraining, SparseTraining, TrainingFlops
from itop.context import Context
from itop.criteria.drop import DropCriterion, MagnitudeDrop, ScoreDrop
from itop.criteria.grow import GrowCriterion, RandomGrowth
from itop.criteria.initial import InitialMasks, RandomMasks
from itop.criteria.observer import Part
from itop.criteria.patterns import Pattern, Unstructured
from itop.criteria.redistribution import Redistribution, SameLayer, share
from itop.methods.method import Method, UpdateTiming
from itop.methods.start import require_data, warn_where_inexact
from itop.schedules import ConstantDropFraction, DensityRamp, DropFraction, UpdateSchedule
from itop.selection import BitSet
from itop.update_report import UpdateReport


@dataclass(frozen=True, slots=True)
class DropAndGrow(Method):
    """A dynamic method composed of parts: drop, then grow as many, at every update step.

    With a ramp the density changes as well: an update first goes to the ramp's density of its step (down by the shrink
    criterion, up by the grow criterion), then drops and grows.

    Attributes:
        label: The name in reports.
        update_schedule: When.
        drop_fraction: How much of each layer's active weights.
        drop, grow: Which.
        initial: Masks before the first step.
        redistribution: How many each layer grows.
        update_timing: After the optimiser's step, or instead of it.
        may_regrow: Whether a weight dropped in an update may be grown in the same update as any other; if not, it is only
            where its layer has no other free site, so that counts stay exact.
        regrown_keeps_value: Where that happens: whether it keeps its value and state, or restarts at zero.
        allocation: Where the user names none.
        pattern: What the active weights of a layer must look like.
        ramp: A density that changes over time; None keeps it.
        shrink: Which weights go where the ramp falls.
        shrink_across_layers: Whether all layers compete then, or each follows a ramp of its own. They do in any case where
            connections move between layers.
    """

    label: str
    update_schedule: UpdateSchedule
    drop_fraction: DropFraction = field(default_factory=lambda: ConstantDropFraction(0.3))
    drop: DropCriterion = field(default_factory=MagnitudeDrop)
    grow: GrowCriterion = field(default_factory=RandomGrowth)
    initial: InitialMasks = field(default_factory=RandomMasks)
    redistribution: Redistribution = field(default_factory=SameLayer)
    update_timing: UpdateTiming = UpdateTiming.AFTER_STEP
    may_regrow: bool = True
    regrown_keeps_value: bool = False
    allocation: AllocationLike = "erk"
    pattern: Pattern = field(default_factory=Unstructured)
    ramp: DensityRamp | None = None
    shrink: ScoreDrop = field(default_factory=MagnitudeDrop)
    shrink_across_layers: bool = False

    @property
    def name(self) -> str:
        return self.label

    @property
    def schedule(self) -> UpdateSchedule:
        return self.update_schedule

    @property
    def timing(self) -> UpdateTiming:
        return self.update_timing

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    @property
    def needs_total_steps(self) -> bool:
        return self.update_schedule.needs_total_steps or self.drop_fraction.needs_total_steps or self.ramp is not None

    @property
    def _parts(self) -> tuple[Part, ...]:
        changing = (self.shrink,) if self.ramp is not None else ()
        return (self.drop, self.grow, self.redistribution, *changing)

    @property
    def _shares_ramp(self) -> bool:
        return self.shrink_across_layers or self.redistribution.moves_between_layers

    @property
    def needs_gradient(self) -> bool:
        return any(part.needs_gradient for part in self._parts)

    @property
    def needs_gradient_every_step(self) -> bool:
        return any(part.needs_gradient_every_step for part in self._parts)

    @property
    def works_on_shards(self) -> bool:
        parts: tuple[Part | InitialMasks | Pattern, ...] = (*self._parts, self.initial, self.pattern)
        return type(self) is DropAndGrow and all(part.works_on_shards for part in parts)

    @property
    def works_truly_sparse(self) -> bool:
        parts: tuple[Part | InitialMasks | Pattern, ...] = (*self._parts, self.initial, self.pattern)
        fits = all(part.works_truly_sparse for part in parts)
        return type(self) is DropAndGrow and fits and not (self.ramp is not None and self._shares_ramp)

    @property
    def acts_before_step(self) -> bool:
        return any(type(part).observe is not Part.observe for part in self._parts)

    @property
    def has_before_step(self) -> bool:
        return self.acts_before_step or type(self).before_step is not DropAndGrow.before_step

    def for_loop(self, steps_per_epoch: int) -> Method:
        return replace(self, update_schedule=self.update_schedule.for_loop(steps_per_epoch))

    def check(self, context: Context) -> None:
        require_data(self.name, self.initial, context)
        if self.pattern.drops_whole_blocks and not isinstance(self.drop, ScoreDrop):
            raise ValueError(
                f"method '{self.name}' drops single weights, not by scores that a block could add up; choose another "
                "pattern than blocks"
            )
        if self.redistribution.moves_between_layers and not isinstance(self.pattern, Unstructured):
            raise ValueError(
                f"method '{self.name}' moves connections between layers, but a pattern gives each layer its number"
            )

    def initialise(self, context: Context) -> None:
        context.topology.initialise(self.pattern.initial(context, self.initial))
        if self.ramp is not None:
            context.state["initial counts"] = context.topology.num_active
        else:
            warn_where_inexact(context, self.name)

    def before_step(self, context: Context) -> None:
        for part in self._parts:
            part.observe(context)

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        fraction = self.drop_fraction(context.step, context.total_steps)
        gone, goals, extra = self._ramped(context)
        remaining = topology.active - gone if gone is not None else topology.active
        dropped = self.drop.drop(context, fraction, None if gone is None else remaining, self.pattern)
        kept = remaining - dropped
        candidates = ~kept
        preferred = None if self.may_regrow else ~topology.active
        room = candidates.counts() if self.redistribution.moves_between_layers else []
        wanted = self.redistribution.grow_counts(context, dropped.counts(), room, kept)
        counts = [count + more for count, more in zip(wanted, extra, strict=True)]
        quota = self.pattern.grow_quota(context, kept, counts, goals)
        grown = self.grow.grow(context, candidates, quota, preferred)
        return topology.commit(
            dropped | gone if gone is not None else dropped,
            grown,
            drop_fraction=fraction,
            zero_all_inactive=context.zero_all_inactive,
            regrown_keeps_value=self.regrown_keeps_value,
        )

    def _ramped(self, context: Context) -> tuple[BitSet | None, list[int], list[int]]:
        """What the ramp takes away in this update, the weights of each layer it aims at, and how many of them it adds."""
        topology = context.topology
        nothing = [0] * len(topology.layers)
        if self.ramp is None or context.total_steps is None:
            return None, context.target_counts, nothing
        now = topology.num_active
        start: list[int] = context.state["initial counts"]
        goals = [
            self.ramp.count(first, last, context.step, context.total_steps)
            for first, last in zip(start, context.target_counts, strict=True)
        ]
        if self._shares_ramp:
            total = self.ramp.count(sum(start), context.target_total, context.step, context.total_steps)
            if total < sum(now):
                gone = self.shrink.drop_exactly(context, sum(now) - total)
                goals = [count - fewer for count, fewer in zip(now, gone.counts(), strict=True)]
                return self._in_pattern(context, gone, goals), goals, nothing
            room = [layer.numel - count for layer, count in zip(topology.layers, now, strict=True)]
            missing = [max(0, goal - count) for goal, count in zip(goals, now, strict=True)]
            extra = share(total - sum(now), [float(count) for count in missing], room)
            return None, [count + more for count, more in zip(now, extra, strict=True)], extra
        extra = [max(0, goal - count) for goal, count in zip(goals, now, strict=True)]
        surplus = [max(0, count - goal) for goal, count in zip(goals, now, strict=True)]
        if not any(surplus):
            return None, goals, extra
        return self._in_pattern(context, self.shrink.drop_exactly(context, surplus), goals), goals, extra

    def _in_pattern(self, context: Context, gone: BitSet, goals: Sequence[int]) -> BitSet:
        """What goes where layers shrink to so many weights: what the pattern says, if there is one."""
        if isinstance(self.pattern, Unstructured):
            return gone
        topology = context.topology
        quota = self.pattern.keep_quota(context, goals)
        return topology.active - topology.select(topology.active, quota, self.shrink.scores(context))

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        if self.needs_gradient_every_step:
            return SNFSTraining(sparse, dense)
        interval = self.update_schedule.mean_interval(None)
        if self.needs_gradient and interval is not None:
            return RigLTraining(sparse, dense, max(1, round(interval)))
        return SparseTraining(sparse)

    def options(self) -> dict[str, Any]:
        return {
            "schedule": self.update_schedule,
            "drop_fraction": self.drop_fraction,
            "drop": self.drop,
            "grow": self.grow,
            "initial": self.initial,
            "redistribution": self.redistribution,
            "timing": self.update_timing.name.lower(),
            "pattern": self.pattern,
            "ramp": self.ramp,
            "shrink": self.shrink,
        }
