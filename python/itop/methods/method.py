"""What a method is: a frozen value made of parts, or one class of its own."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from itop.allocation import AllocationLike
from itop.analysis.training_flops import RigLTraining, SparseTraining, TrainingFlops
from itop.context import Context
from itop.criteria.drop import DropCriterion, MagnitudeDrop
from itop.criteria.grow import GrowCriterion, RandomGrowth
from itop.criteria.initial import InitialMasks, RandomMasks
from itop.criteria.redistribution import Redistribution, SameLayer
from itop.schedules import ConstantDropFraction, DropFraction, Every, Never, UpdateSchedule
from itop.topology import UpdateReport


class UpdateTiming(enum.Enum):
    """Where a topology update stands in its optimiser step."""

    AFTER_STEP = enum.auto()
    """The optimiser steps, then the topology changes."""

    REPLACES_STEP = enum.auto()
    """The topology changes instead of the optimiser's step (Evci et al., ICML 2020, algorithm 1)."""


class Method(ABC):
    """How a topology starts and changes. Subclass it for rules that do not decompose into parts.

    A method holds no state of its own: what it must remember goes to ``context.state``, which is saved with the engine.
    Only :meth:`update` is required; the other hooks do nothing unless overridden.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """For reports; decides nothing."""

    @property
    def schedule(self) -> UpdateSchedule:
        """When :meth:`update` is called."""
        return Never()

    @property
    def timing(self) -> UpdateTiming:
        """Whether an update follows or replaces the optimiser's step."""
        return UpdateTiming.AFTER_STEP

    @property
    def default_allocation(self) -> AllocationLike:
        """The allocation where the user names none."""
        return "erk"

    @property
    def needs_total_steps(self) -> bool:
        """Whether the horizon of the run must be known."""
        return self.schedule.needs_total_steps

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at dense gradients, so that they must not be masked at an update step."""
        return False

    @property
    def is_dense(self) -> bool:
        """Whether every weight takes part whatever the sparsity asked for."""
        return False

    def for_loop(self, steps_per_epoch: int) -> Method:
        """The method with what it leaves open until the training loop is known; itself by default."""
        return self

    def initialise(self, context: Context) -> None:
        """Sets the initial masks."""
        context.topology.initialise(RandomMasks().masks(context))

    @abstractmethod
    def update(self, context: Context) -> UpdateReport | None:
        """One topology update; None where nothing was to be done."""

    def before_step(self, context: Context) -> None:
        """Called before every optimiser step, gradients at hand."""

    def after_step(self, context: Context) -> None:
        """Called after every optimiser step, before an update."""

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        """What a training step costs (PAPER section 4), given the forward FLOPs of one sample, sparse and dense."""
        return SparseTraining(sparse)

    def options(self) -> dict[str, Any]:
        """The method's options, for reports and configurations."""
        return {}


@dataclass(frozen=True, slots=True)
class DropAndGrow(Method):
    """A dynamic method composed of parts: drop, then grow as many, at every update step.

    Attributes:
        label: The name in reports.
        update_schedule: When.
        drop_fraction: How much of each layer's active weights.
        drop, grow: Which.
        initial: Masks before the first step.
        redistribution: How many each layer grows.
        update_timing: After the optimiser's step, or instead of it.
        may_regrow: Whether a weight dropped in an update may be grown in the same update.
        regrown_keeps_value: Where that happens: whether it keeps its value and state, or restarts at zero.
        allocation: Where the user names none.
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
        return self.update_schedule.needs_total_steps or self.drop_fraction.needs_total_steps

    @property
    def needs_gradient(self) -> bool:
        return self.grow.needs_gradient

    def initialise(self, context: Context) -> None:
        context.topology.initialise(self.initial.masks(context))

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        fraction = self.drop_fraction(context.step, context.total_steps)
        dropped = self.drop.drop(context, fraction)
        kept = topology.active - dropped
        candidates = ~kept if self.may_regrow else ~topology.active
        num_dropped = dropped.counts()
        counts = self.redistribution.grow_counts(context, num_dropped, candidates.counts())
        grown = self.grow.grow(context, candidates, counts)
        return topology.commit(
            dropped,
            grown,
            drop_fraction=fraction,
            zero_all_inactive=context.zero_all_inactive,
            regrown_keeps_value=self.regrown_keeps_value,
        )

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        if self.needs_gradient and isinstance(self.update_schedule, Every):
            return RigLTraining(sparse, dense, self.update_schedule.interval)
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
        }
