"""Stochastic gradient descent in one pass over the active weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from itop import _core
from itop.optim.masked import MaskedOptimizer, evaluate, laid_out_like, torch_step


class SGD(torch.optim.SGD, MaskedOptimizer):
    """``torch.optim.SGD`` (same arguments, same state) that reads and writes active weights only.

    The result is torch's within float32 rounding: products that are added are fused multiply-adds here, and the same bits
    for any number of threads and any instruction set.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` re-evaluates the loss first."""
        loss = evaluate(closure)
        if not self.uses_native_step:
            torch_step(self, torch.optim.SGD)
            return loss
        store, layer_of = self._masks()
        for group in self.param_groups:
            step_natively(self, group, group["params"], store, layer_of)
        return loss


def step_natively(
    optimizer: torch.optim.SGD,
    group: dict[str, Any],
    parameters: Iterable[Tensor],
    store: _core.MaskStore | None,
    layer_of: Mapping[int, int],
) -> None:
    """Steps parameters of a group that have gradients, active weights only where they are layers of ``store``.

    The bits are those of torch's own step where its vectors have fused multiply-adds (any x86 since AVX2).
    """
    rows: list[tuple[int, Tensor, Tensor, Tensor | None, None, bool, float]] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        strides = parameter.stride()
        if gradient.stride() != strides:
            gradient = laid_out_like(gradient, parameter)
        buffer, is_first = None, False
        if group["momentum"] != 0:
            state = optimizer.state[parameter]
            buffer = state.get("momentum_buffer")
            is_first = buffer is None
            if buffer is None:
                buffer = state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            elif buffer.stride() != strides:
                buffer = state["momentum_buffer"] = laid_out_like(buffer, parameter)
        rows.append((layer_of.get(id(parameter), -1), parameter, gradient, buffer, None, is_first, 0.0))
    _core.sgd_step(
        store,
        rows,
        learning_rate=float(group["lr"]),
        momentum=group["momentum"],
        dampening=group["dampening"],
        weight_decay=group["weight_decay"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )
    torch.autograd.graph.increment_version([row[1] for row in rows])
