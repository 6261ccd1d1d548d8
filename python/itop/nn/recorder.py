"""Remembers what the gradient of a dense weight is made of: a layer's inputs and the gradients of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from itop.nn.growth import ScoreRows
from itop.nn.sparse_layer import SparseLayer

__all__ = ["GradientRecorder"]


@dataclass(slots=True)
class _Pass:
    """One forward and backward pass through a layer.

    Attributes:
        x: Its input.
        gradient: Of its output.
        backward: Which run of the backward pass this was.
    """

    x: Tensor
    gradient: Tensor
    backward: int


@final
class GradientRecorder:
    """Follows one truly sparse layer through the passes that an update will look at.

    The layer's inputs are kept by autograd until the backward pass anyway; here they and the gradients of the outputs
    live on until :meth:`clear`. Several passes add up as their gradients do (accumulation, a layer used twice).

    Args:
        layer: Whose passes.
        is_wanted: Whether the pass that begins is to be remembered.
    """

    def __init__(self, layer: SparseLayer, is_wanted: Callable[[], bool]) -> None:
        self._layer = layer
        self._is_wanted = is_wanted
        self._passes: list[_Pass] = []
        self.handle: RemovableHandle = layer.register_forward_hook(torch.compiler.disable(self._look))  # type: ignore[no-untyped-call]

    def _look(self, module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not self._is_wanted():
            self._passes.clear()
            return
        if not output.requires_grad:
            return
        x = args[0].detach()

        def remember(gradient: Tensor) -> None:
            backward = torch._C._current_graph_task_id()
            before = self._layer.values.grad
            if before is None or not bool(before.any()):  # what was summed up before is gone: zeroed, or a skipped step
                self._passes = [entry for entry in self._passes if entry.backward == backward]
            self._passes.append(_Pass(x, gradient.detach(), backward))

        output.register_hook(remember)  # type: ignore[no-untyped-call]

    def gradient_rows(self) -> ScoreRows | None:
        """The gradient of the dense weight, formed when asked for; None if no pass was remembered."""
        batches: Sequence[tuple[Tensor, Tensor]] = [(entry.x, entry.gradient) for entry in self._passes]
        return self._layer.gradient_rows(batches) if batches else None

    def clear(self) -> None:
        """Lets go of what was remembered."""
        self._passes.clear()
