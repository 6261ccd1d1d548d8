"""Adam and AdamW in one pass over the active weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itop import _core
from itop.optim.masked import MaskedOptimizer, evaluate, laid_out_like, torch_step


class Adam(torch.optim.Adam, MaskedOptimizer):
    """``torch.optim.Adam`` (same arguments, same state) that reads and writes active weights only.

    ``amsgrad`` takes torch's own step. The result is torch's within float32 rounding.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` re-evaluates the loss first."""
        loss = evaluate(closure)
        if not self.uses_native_step:
            torch_step(self, torch.optim.Adam)
            return loss
        store, layer_of = self._masks()
        for group in self.param_groups:
            rows: list[tuple[int, Tensor, Tensor, Tensor, Tensor, bool, float]] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment] = laid_out_like(state[moment], parameter)
                state["step"] += 1
                gradient = laid_out_like(parameter.grad, parameter)
                layer = layer_of.get(id(parameter), -1)
                rows.append(
                    (layer, parameter, gradient, state["exp_avg"], state["exp_avg_sq"], False, float(state["step"]))
                )
            beta1, beta2 = group["betas"]
            _core.adam_step(
                store,
                rows,
                learning_rate=float(group["lr"]),
                beta1=float(beta1),
                beta2=float(beta2),
                epsilon=group["eps"],
                weight_decay=group["weight_decay"],
                decoupled_weight_decay=bool(group.get("decoupled_weight_decay", False)),
                maximize=group["maximize"],
            )
            torch.autograd.graph.increment_version([row[1] for row in rows])
        return loss


class AdamW(Adam):
    """``torch.optim.AdamW`` that reads and writes active weights only: :class:`Adam` with decoupled weight decay."""

    def __init__(self, params: Any, lr: float = 1e-3, *, weight_decay: float = 1e-2, **options: Any) -> None:
        super().__init__(params, lr, weight_decay=weight_decay, decoupled_weight_decay=True, **options)
