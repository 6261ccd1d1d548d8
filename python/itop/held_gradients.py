"""Gradients that are set aside for the length of an optimiser step, and whether those at hand are masked already."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from itop.optimizer_group import OptimizerGroup
from itop.topology import Topology


class HeldGradients:
    """Takes gradients out of an optimiser's sight and gives them back; knows those that the engine has masked."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._held: list[tuple[Tensor, Tensor]] = []
        self._masked: tuple[weakref.ref[Tensor], int] | None = None

    def withhold(self, optimizer: Optimizer | OptimizerGroup) -> None:
        """The update takes the place of this optimiser step: with no gradient in sight the optimiser does nothing."""
        self.withhold_of(parameter for group in optimizer.param_groups for parameter in group["params"])

    def withhold_of(self, parameters: Iterable[Tensor]) -> None:
        """The optimiser leaves these parameters as they are."""
        for parameter in parameters:
            if parameter.grad is not None:
                self._held.append((parameter, parameter.grad))
                parameter.grad = None

    def set_dense_aside(self) -> None:
        """The optimiser gets copies to be masked; growth looks at the dense gradients of the last evaluation."""
        self._held = [
            (layer.parameter, layer.parameter.grad)
            for layer in self._topology.layers
            if layer.parameter.grad is not None
        ]
        for parameter, gradient in self._held:
            parameter.grad = gradient.clone()

    def give_back(self) -> None:
        """Every parameter has the gradient again that it had."""
        if not self._held:
            return
        for parameter, gradient in self._held:
            parameter.grad = gradient
        self._held = []
        self._masked = None

    def forget_held(self) -> None:
        """Before a step: an exception left the last one, whose gradients are not those of this."""
        self._held = []

    def note_masked(self) -> None:
        """The gradients at hand were just masked."""
        self._masked = self._first()

    def are_masked(self) -> bool:
        """Whether the gradients at hand are those that were masked last, and not of a backward pass since."""
        now = self._first()
        if self._masked is None or now is None:
            return False
        return now[0]() is self._masked[0]() and now[1] == self._masked[1]

    def _first(self) -> tuple[weakref.ref[Tensor], int] | None:
        """Tells the gradients of one backward pass from those of the next: a tensor and its version."""
        for layer in self._topology.layers:
            gradient = layer.parameter.grad
            if gradient is not None:
                return weakref.ref(gradient), gradient._version
        return None
