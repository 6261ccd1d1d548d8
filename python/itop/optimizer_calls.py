"""What a call of ``optimizer.step`` is: with a closure or without, a step of the training or none, a call within another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from itop.distributed.shards import local_part


def in_eager_mode(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook as it is, also where ``optimizer.step`` is compiled: the compiler steps around it."""
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def can_be_hooked(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` calls hooks: some that wrap others leave out ``Optimizer.__init__``, which sees to it."""
    return hasattr(optimizer, "_optimizer_step_pre_hooks") and bool(getattr(type(optimizer).step, "hooked", False))


def owner_of(hook: Callable[..., Any] | None) -> object:
    """The object whose method a hook is, also behind :func:`in_eager_mode`."""
    return getattr(getattr(hook, "__wrapped__", hook), "__self__", None)


def has_innermost_hooks(optimizer: Optimizer, owner: object) -> bool:
    """Whether an object's hooks are the last before the step and the first after it: nobody else's see what lies between."""
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return (
        owner_of(next(reversed(before.values()), None)) is owner and owner_of(next(iter(after.values()), None)) is owner
    )


def was_skipped_by_scaler(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser is about to skip this step because the gradient scaler found an overflow."""
    found_inf = getattr(optimizer, "found_inf", None)
    return isinstance(found_inf, Tensor) and bool(found_inf.item() != 0)


def only_makes_state(optimizer: Optimizer) -> bool:
    """Whether this is no step of the training but ``torch.distributed.checkpoint`` making an optimiser's state.

    It steps an optimiser that has no state yet with all learning rates and gradients at zero.
    """
    if optimizer.state:
        return False
    for group in optimizer.param_groups:
        if group.get("lr") is None or float(group["lr"]) != 0.0:
            return False
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return all(not local_part(gradient).count_nonzero() for gradient in gradients)


@final
class CallsOfStep:
    """Tells the outermost of nested calls: where a subclass calls its base's step, torch calls the hooks for both.

    A call that an exception left is over, though its second hook never came.
    """

    def __init__(self) -> None:
        self._under_way: set[int] = set()
        self._nesting: set[int] = set()

    def begin(self, optimizer: Optimizer) -> bool:
        """Before a step: whether the call is an outermost one."""
        key = id(optimizer)
        if key in self._under_way and _num_calls_on_stack(optimizer) > 1:
            self._nesting.add(key)
            return False
        self._under_way.add(key)
        return True

    def end(self, optimizer: Optimizer) -> bool:
        """After a step: whether the call was an outermost one."""
        key = id(optimizer)
        if key in self._nesting and _num_calls_on_stack(optimizer) > 1:
            return False
        self._under_way.discard(key)
        return True

    @property
    def are_under_way(self) -> bool:
        """Whether an optimiser is in its step."""
        return bool(self._under_way)


def _num_calls_on_stack(optimizer: Optimizer) -> int:
    """How many of the functions that torch wraps around ``step`` are running for an optimiser."""
    code = getattr(type(optimizer).step, "__code__", None)
    frame = sys._getframe()
    count = 0
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        count += frame.f_code is code and any(value is optimizer for value in frame.f_locals.values())
    return count


def find_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[[], Any] | None, int | None]:
    """The closure given to ``optimizer.step`` and its place in ``args`` (None: a keyword).

    Hooks see ``args`` as the optimiser's wrapper does: with or without the optimiser itself in front.
    """
    if callable(kwargs.get("closure")):
        return kwargs["closure"], None
    for place, argument in enumerate(args):
        if callable(argument) and not isinstance(argument, Optimizer):
            return argument, place
    return None, None
