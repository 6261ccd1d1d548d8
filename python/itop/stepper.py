"""What an engine does around the steps of an optimiser: mask, count, and let the topology be updated when that is due."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from itop.context import Context
from itop.grown_state import YoungWeights
from itop.held_gradients import HeldGradients
from itop.methods import Method, UpdateTiming
from itop.optim import MaskedOptimizer
from itop.optim.substitute import can_substitute, step_sparse_layers
from itop.optimizer_calls import (
    CallsOfStep,
    can_be_hooked,
    find_closure,
    has_innermost_hooks,
    in_eager_mode,
    only_makes_state,
    was_skipped_by_scaler,
)
from itop.optimizer_group import OptimizerGroup, StepRound
from itop.optimizer_state import wrapped_optimizers
from itop.topology_updates import TopologyUpdates
from itop.training_cost import DensityRecord
from itop.update_report import UpdateReport


class Stepper:
    """Keeps zeros zero and the topology moving while an optimiser steps.

    A plain SGD on the CPU has the step of its sparse layers taken for it. Any other optimiser that leaves zeros at zero needs
    masked gradients only; all others, those that zeros slow down, and every step after somebody else wrote to the weights, are
    masked after the step.

    Args:
        context: What the method acts on.
        method: The rule.
        members: The optimisers that make one step together.
        young: Treats grown weights apart; None: like all others.
        updates: Changes the topology when that is due.
        begin: Called before each step; makes sure, before the first, that all ranks hold the same topology.

    Attributes:
        density_record: What the steps so far cost.
    """

    def __init__(
        self,
        context: Context,
        method: Method,
        members: Sequence[Optimizer],
        young: YoungWeights | None,
        updates: TopologyUpdates,
        begin: Callable[[], None],
    ) -> None:
        self.topology = context.topology
        self.density_record = DensityRecord(self.topology.layers)
        self._context = context
        self._method = method
        self._members = tuple(members)
        self._young = young
        self._updates = updates
        self._begin = begin
        self._has_before_step = method.has_before_step
        self._has_after_step = type(method).after_step is not Method.after_step
        self._has_regulariser = type(method).regulariser is not Method.regulariser
        self._gradients = HeldGradients(self.topology)
        self._round = StepRound(members, self._finish_round)
        self._handles: list[RemovableHandle] = []
        self._parameters: list[nn.Parameter] = [layer.parameter for layer in self.topology.layers]
        self._calls = CallsOfStep()
        self._num_missed_steps = 0
        self._skips_step = False
        self._updated_before_step = False
        self._masks_gradients = False
        self._needs_full_mask = True
        self._signature = (0, 0)
        self._versions: list[int] = []
        self.remember()

    # --- hooks ---------------------------------------------------------------------------------------------------------

    def attach(self, sparse_gradients: bool) -> None:
        """Hooks the optimisers' steps, and with ``sparse_gradients`` the making of gradients too."""
        before, after = self._before_step, self._after_step
        if len(self._members) > 1 or isinstance(self._context.optimizer, OptimizerGroup):
            before, after = self._before_member_step, self._after_member_step
        for member in self._members:
            self._handles.append(member.register_step_pre_hook(in_eager_mode(before)))
            self._handles.append(member.register_step_post_hook(in_eager_mode(after)))
            if hasattr(member, "register_load_state_dict_post_hook"):
                self._handles.append(member.register_load_state_dict_post_hook(self._mark_foreign_change))
            for wrapped in wrapped_optimizers(member):
                if wrapped not in self._members and can_be_hooked(wrapped):
                    missed = functools.partial(self._refuse_missed_steps, member)
                    self._handles.append(wrapped.register_step_pre_hook(in_eager_mode(missed)))
        if sparse_gradients:
            hook = in_eager_mode(self._mask_new_gradient)
            for parameter in self._parameters:
                register: Callable[..., RemovableHandle] = parameter.register_post_accumulate_grad_hook
                self._handles.append(register(hook))

    def detach(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _starts_step(self, optimizer: Optimizer) -> bool:
        """An optimiser was called: whether a step begins, and not a part of one."""
        if not self._calls.begin(optimizer):
            return False
        self._num_missed_steps = 0
        self._gradients.forget_held()
        return True

    def _refuse_missed_steps(
        self, member: Optimizer, wrapped: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """An optimiser that another one wraps is about to step."""
        self._num_missed_steps += not self._calls.are_under_way
        if self._num_missed_steps > 1:
            raise RuntimeError(
                f"{type(member).__name__} lets the {type(wrapped).__name__} that it wraps step without a step() of its own, so that "
                f"the engine does not hear of it; give the engine the {type(wrapped).__name__}"
            )

    # --- one optimiser ---------------------------------------------------------------------------------------------------

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._starts_step(optimizer):
            return None
        self._skips_step = was_skipped_by_scaler(optimizer) or only_makes_state(optimizer)
        if self._skips_step:
            return None
        self._begin()
        closure, place = find_closure(args, kwargs)
        if closure is None:
            self._prepare_step(withhold=True)
            return None

        is_first = True

        def closure_then_prepare() -> Any:
            nonlocal is_first
            loss = closure()
            self._prepare_step(withhold=False, is_first_evaluation=is_first)
            is_first = False
            return loss

        if place is None:
            return args, {**kwargs, "closure": closure_then_prepare}
        return (*args[:place], closure_then_prepare, *args[place + 1 :]), kwargs

    def _prepare_step(self, withhold: bool, is_first_evaluation: bool = True) -> None:
        """Gradients are there: mask them, or update the topology by them."""
        step = self._context.step + 1
        self._updated_before_step = False
        self._masks_gradients = False
        self.follow_model()
        update_due = self._updates.is_due(step)
        if is_first_evaluation and self._has_before_step:
            self._method.before_step(self._context)
        if self._has_regulariser:
            self._regularise()
        if self._method.hides_weights(self._context):
            return
        if update_due and withhold and self._method.timing is UpdateTiming.REPLACES_STEP:
            self._update_instead_of_step(step)
            return
        if self._young is not None:
            assert isinstance(self._context.optimizer, Optimizer)
            self._young.before_step(self._context.optimizer)
            self._mask_gradients(update_due)
        elif not (withhold and self._substitute_step()):
            self._mask_gradients(update_due)

    def _substitute_step(self) -> bool:
        """Steps the sparse layers in the optimiser's stead, where that gives the same bits and nobody comes between."""
        optimizer = self._context.optimizer
        if not (
            isinstance(optimizer, torch.optim.SGD)
            and has_innermost_hooks(optimizer, self)
            and can_substitute(optimizer, self.topology)
        ):
            return False
        self._needs_full_mask |= self._was_changed_by_others()
        self._masks_gradients = True
        self._gradients.withhold_of(step_sparse_layers(optimizer, self.topology))
        self.topology.sweep()
        return True

    def _mask_gradients(self, update_due: bool) -> None:
        """Sees to it that zeros stay zero in the step that comes, where gradients can; the rest is masked after it."""
        state = self.topology.optimizer_state
        optimizer = self._context.optimizer
        if isinstance(optimizer, MaskedOptimizer) and optimizer.uses_native_step:
            self._needs_full_mask |= self._was_changed_by_others()
            self._masks_gradients = state.zero_stays_zero
            self.topology.sweep()
        elif state.evaluates_repeatedly:
            # Its line search moves along gradients: masked ones keep every model it tries sparse.
            if update_due and self._method.needs_gradient:
                self._gradients.set_dense_aside()
            self.topology.apply_to_gradients()
            self._gradients.note_masked()
        elif (
            state.zero_stays_zero and not state.is_slowed_by_zeros and not (update_due and self._method.needs_gradient)
        ):
            self._needs_full_mask |= self._was_changed_by_others()
            self._masks_gradients = self.topology.apply_to_gradients()
            self._gradients.note_masked()

    def _mask_new_gradient(self, parameter: Tensor) -> None:
        """Backward has made a gradient. Where an update is about to look at it, it stays dense."""
        if not (self._method.needs_gradient and self._updates.is_due(self._context.step + 1)):
            self.topology.apply_to_gradients([self.topology.layer_of_parameter[id(parameter)]])
            self._gradients.note_masked()

    def _regularise(self) -> None:
        """Adds the gradient of the method's penalty, so that no loop has to add it to its loss."""
        with torch.enable_grad():
            penalty = self._method.regulariser(self._context)
        parameters = [p for p in (*self._parameters, *self._context.parameters.values()) if p.requires_grad]
        if penalty is None or not penalty.requires_grad:
            return
        gradients = torch.autograd.grad(penalty * self._context.gradient_scale, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._calls.end(optimizer) or self._skips_step:
            return
        self._count_step()
        self._gradients.give_back()
        if self._young is not None and not self._updated_before_step:
            self._young.after_step()
        self._finish_step(update_due=self._updates.is_due(self._context.step) and not self._updated_before_step)

    # --- several optimisers ----------------------------------------------------------------------------------------------

    def _before_member_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One of several optimisers steps, maybe while backward runs: other gradients may not be there yet, or be gone."""
        if not self._starts_step(optimizer):
            return
        self._skips_step = was_skipped_by_scaler(optimizer) or only_makes_state(optimizer)
        if self._skips_step:
            return
        if find_closure(args, kwargs)[0] is not None:
            raise ValueError("an engine over several optimisers cannot follow closures: call step() without one")
        self._begin()
        self._round.begin(optimizer)
        if not self._round.is_open:
            self.follow_model()
            if self._has_before_step:
                self._method.before_step(self._context)
            if self._has_regulariser:
                self._regularise()
        if not self._updates.is_due(self._context.step + 1):
            return
        if self._method.needs_gradient:
            for i in self._layers_of(optimizer):
                gradient = self._parameters[i].grad
                if gradient is not None:
                    self._round.gradients[i] = gradient.detach().clone()
        if self._method.timing is UpdateTiming.REPLACES_STEP:
            self._gradients.withhold(optimizer)

    def _after_member_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._calls.end(optimizer) or self._skips_step:
            return
        self._gradients.give_back()
        if not self._method.hides_weights(self._context):
            self.topology.apply(self._layers_of(optimizer))
        self._round.done(optimizer)

    def _finish_round(self) -> None:
        """Each of several optimisers has stepped once."""
        self._count_step()
        self.topology.kept_gradients = self._round.gradients
        try:
            self._finish_step(update_due=self._updates.is_due(self._context.step))
        finally:
            self.topology.kept_gradients = {}

    def _layers_of(self, optimizer: Optimizer) -> list[int]:
        places = self.topology.layer_of_parameter
        return [
            places[id(parameter)]
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in places
        ]

    # --- no hooks ---------------------------------------------------------------------------------------------------------

    def step_was_taken(self) -> None:
        """The loop says so itself: counts the step, masks, and updates where an update is due."""
        self._begin()
        self._needs_full_mask = True
        self._count_step()
        self.follow_model()
        self._finish_step(update_due=self._updates.is_due(self._context.step))

    # --- updates ----------------------------------------------------------------------------------------------------------

    def update_now(self) -> UpdateReport | None:
        """One topology update by the gradients at hand, whatever the schedule says."""
        if self._method.needs_gradient and self._gradients.are_masked():
            raise RuntimeError(
                "growth by gradient needs dense gradients, but optimizer.step() has masked those at hand; call update() "
                "after backward() and before optimizer.step()"
            )
        self.follow_model()
        report = self._updates.make(zero_all_inactive=self._needs_full_mask or self._was_changed_by_others())
        if report is not None:
            self.remember()
        return report

    def _update_instead_of_step(self, step: int) -> None:
        """The update takes the place of the optimiser's step, which finds no gradients."""
        self._context.step = step
        try:
            self._updates.make(zero_all_inactive=self._needs_full_mask or self._was_changed_by_others())
        finally:
            self._context.step = step - 1
        self._updated_before_step = True
        self._gradients.withhold(self._context.optimizer)

    def _finish_step(self, update_due: bool) -> None:
        signature = self.topology.optimizer_state.signature()
        if not self._masks_gradients or signature != self._signature:
            self._needs_full_mask = True
        if self._has_after_step:
            self._method.after_step(self._context)
        if update_due:
            try:
                report = self._updates.make(zero_all_inactive=self._needs_full_mask)
            except BaseException:  # an interrupt too leaves what is inactive at zero
                if not self._method.hides_weights(self._context):
                    self.topology.apply()
                raise
            if report is not None:
                self._needs_full_mask = False
        if self._needs_full_mask and not self._method.hides_weights(self._context):
            self.topology.apply()
        self.remember(signature)

    def _count_step(self) -> None:
        self._context.step += 1
        self.density_record.add(self.topology.active_counts, acts=self._method.acts(self._context))

    def follow_model(self) -> None:
        """Takes the masks to where the weights are now, and into their memory order: ``model.to(...)`` may have been called."""
        before = self.topology.device
        self.topology.move_if_needed()
        if self.topology.device != before:
            self._context.follow_device()

    # --- writes of others ----------------------------------------------------------------------------------------------------

    def remember(self, signature: tuple[int, int] | None = None) -> None:
        """All inactive weights and their state are zero now: whatever changes them from here on shows."""
        self._needs_full_mask = False
        self._masks_gradients = False
        self._signature = signature or self.topology.optimizer_state.signature()
        self._versions = [parameter._version for parameter in self._parameters]

    def forget(self) -> None:
        """Inactive weights may hold values, for what the stepper knows: all are masked after the next step."""
        self.remember()
        self._needs_full_mask = True

    def _was_changed_by_others(self) -> bool:
        """Whether somebody wrote to the weights since the last step (a loaded checkpoint, swapped averages)."""
        return [parameter._version for parameter in self._parameters] != self._versions

    def _mark_foreign_change(self, optimizer: Optimizer) -> None:
        self._needs_full_mask = True
