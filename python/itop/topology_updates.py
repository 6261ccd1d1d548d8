"""Topology updates: when one is due, how it is made, and who is told of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import final

from itop import _core
from itop.context import Context
from itop.methods import Method
from itop.update_report import UpdateReport

__all__ = ["TopologyUpdates"]


@final
class TopologyUpdates:
    """The updates of a run by its method's schedule and rule.

    Args:
        context: What the method acts on.
        method: The rule.

    Attributes:
        last: The report of the latest update; None before the first.
    """

    def __init__(self, context: Context, method: Method) -> None:
        self.last: UpdateReport | None = None
        self._context = context
        self._method = method
        self._callbacks: list[Callable[[UpdateReport], object]] = []
        self._callbacks_before: list[Callable[[int], object]] = []

    def on_update(self, callback: Callable[[UpdateReport], object]) -> Callable[[], None]:
        """Calls ``callback(report)`` after every topology update. Returns a function that ends it."""
        self._callbacks.append(callback)
        return functools.partial(self._callbacks.remove, callback)

    def before_update(self, callback: Callable[[int], object]) -> Callable[[], None]:
        """Calls ``callback(step)`` just before every topology update. Returns a function that ends it."""
        self._callbacks_before.append(callback)
        return functools.partial(self._callbacks_before.remove, callback)

    def is_due(self, step: int) -> bool:
        """Whether the schedule wants a topology update at a step."""
        return self._method.schedule.is_update_step(step, self._context.total_steps)

    def make(self, zero_all_inactive: bool) -> UpdateReport | None:
        """One topology update by what is at hand, after which everybody who wants to know is told.

        Args:
            zero_all_inactive: Whether inactive weights may hold values, so that all are zeroed.

        Raises:
            ValueError: If weights or gradients hold NaN or infinity; nothing has been changed then.
        """
        context, topology = self._context, self._context.topology
        for observe in tuple(self._callbacks_before):
            observe(context.step)
        before = topology.num_updates, topology.step
        report: UpdateReport | None = None
        context.zero_all_inactive = zero_all_inactive
        topology.begin_update(context.step)
        try:
            report = self._method.update(context)
        except _core.NonFiniteError as error:
            raise ValueError(f"topology update {before[0] + 1} at step {context.step} refused: {error}") from None
        finally:
            context.zero_all_inactive = False
            if report is None:
                topology.num_updates, topology.step = before
        if report is not None:
            self.last = report
            for callback in tuple(self._callbacks):
                callback(report)
        return report
