"""What a method is to the engine: how a topology starts and when and how it changes."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from itop.allocation import AllocationLike
from itop.analysis.training_flops import SparseTraining, TrainingFlops
from itop.context import Context
from itop.criteria.initial import RandomMasks
from itop.schedules import Never, UpdateSchedule
from itop.update_report import UpdateReport


class UnsuitableModelError(ValueError):
    """The model has nothing for the method to work on, as a network without batch normalisation for early-bird tickets.

    Where several methods are compared, this one is left out; nothing is wrong with the run.
    """


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
    def needs_gradient_every_step(self) -> bool:
        """Whether it looks at the gradients of inactive weights before every step."""
        return False

    @property
    def acts_before_step(self) -> bool:
        """Whether it cannot do without :meth:`before_step` or :meth:`regulariser`, and so without the engine's hooks."""
        return False

    @property
    def has_before_step(self) -> bool:
        """Whether :meth:`before_step` does anything: otherwise a step does without calling it."""
        return type(self).before_step is not Method.before_step

    @property
    def is_dense(self) -> bool:
        """Whether every weight takes part whatever the sparsity asked for."""
        return False

    @property
    def works_on_shards(self) -> bool:
        """Whether masks are those of one process where each rank holds a part of a layer (FSDP2, tensor parallelism).

        What decides by selections and counts does; what looks at a layer as a whole, or runs in its forward pass, not.
        """
        return False

    @property
    def works_truly_sparse(self) -> bool:
        """Whether it asks nothing of inactive weights that a truly sparse layer (``itop.nn``) does not hold."""
        return False

    def hides_weights(self, context: Context) -> bool:
        """Whether inactive weights live on out of the model's sight at this time.

        The model then holds zeros there as always, but gradients and optimiser state of inactive weights are the
        method's own business: the engine masks neither.
        """
        return False

    @property
    def continues_any_method(self) -> bool:
        """Whether masks that another method left, at whatever sparsity, are a start for this one."""
        return False

    def acts(self, context: Context) -> bool:
        """Whether the rule still acts; once it has ended, fixed masks are trained, which costs ``3 f_S``."""
        return True

    def for_loop(self, steps_per_epoch: int) -> Method:
        """The method with what it leaves open until the training loop is known; itself by default."""
        return self

    def for_sparsity(self, sparsity: float) -> Method:
        """The method with what follows from the sparsity aimed at; itself by default. The engine asks."""
        return self

    def schedule_progress(self, step: int, total_steps: int) -> float:
        """Where a learning-rate schedule should stand, in [0, 1), after ``step`` steps.

        The fraction of the run by default; a method that trains in rounds starts the schedule anew in each.
        """
        return step / total_steps

    def check(self, context: Context) -> None:
        """Raises ValueError where the method cannot do what it is asked for. Nothing has been changed yet.

        UnsuitableModelError where that is so whatever its options are, because of the model.
        """

    def hooks(self, context: Context) -> Iterable[RemovableHandle]:
        """Hooks on the model's modules that act until the engine is detached."""
        return ()

    def initialise(self, context: Context) -> None:
        """Sets the initial masks."""
        context.topology.initialise(RandomMasks().masks(context))

    @abstractmethod
    def update(self, context: Context) -> UpdateReport | None:
        """One topology update; None where nothing was to be done."""

    def before_step(self, context: Context) -> None:
        """Called before every optimiser step, dense gradients at hand; ``context.step`` steps are done."""

    def regulariser(self, context: Context) -> Tensor | None:
        """A penalty on the layers' parameters and the method's own, a differentiable scalar; None: nothing at this step.

        The engine adds its gradient before each step, after :meth:`before_step`; the loss of the loop stays as it was.
        """
        return None

    def after_step(self, context: Context) -> None:
        """Called after every optimiser step, before an update."""

    def tickets(self, context: Context) -> Sequence[Mapping[str, Tensor]]:
        """Networks of this run that make an ensemble, each a state the model loads; none by default."""
        return ()

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        """What a training step costs (PAPER section 4), given the forward FLOPs of one sample.

        Args:
            sparse: At the layers' densities averaged over the steps in which the rule acted.
            dense: With every weight.
        """
        return SparseTraining(sparse)

    def options(self) -> dict[str, Any]:
        """The method's options, for reports and configurations."""
        return {}
