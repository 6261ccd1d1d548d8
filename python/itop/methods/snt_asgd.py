"""SNT-ASGD: averaged SGD for sparse recurrent networks (Liu et al., Selfish sparse RNN training, ICML 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from itop.ranges import NOT_NEGATIVE, POSITIVE, require_count


@final
class SNTASGD(Optimizer):
    """Sparse non-monotonically triggered averaged SGD.

    Plain SGD until the validation loss has not improved for ``patience`` calls of :meth:`trigger`; then every weight has
    an average of its own over the steps since the trigger *or since it was last grown*: a weight at zero with a zero
    gradient is one that is not there, and its step count starts again. So a dropped weight takes nothing of its old
    average with it, and a grown one is not averaged with the zeros of its absence.

    Evaluate with the averages inside ``with optimizer.averaged():``.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: L2.
        patience: Calls of :meth:`trigger` without an improvement after which averaging begins.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.0, weight_decay: float = 0.0, patience: int = 5) -> None:
        POSITIVE.require("lr", lr)
        NOT_NEGATIVE.require("weight_decay", weight_decay)
        require_count("patience", patience)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "patience": patience, "averages": False})
        self.history: list[float] = []

    def trigger(self, validation_loss: float) -> bool:
        """Notes a validation loss; whether averaging is on from now on."""
        patience = int(self.param_groups[0]["patience"])
        if len(self.history) > patience and validation_loss > min(self.history[:-patience]):
            for group in self.param_groups:
                group["averages"] = True
        self.history.append(float(validation_loss))
        return bool(self.param_groups[0]["averages"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)
        return loss

    def _step(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        absent = (parameter == 0) & (gradient == 0)
        parameter.add_(gradient.add(parameter, alpha=group["weight_decay"]), alpha=-group["lr"])
        if not group["averages"]:
            return
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
            state["count"] = torch.zeros_like(parameter)
        count: Tensor = state["count"]
        count.add_(1.0).masked_fill_(absent, 0.0)
        state["average"].add_((parameter - state["average"]) / count.clamp_min(1.0)).masked_fill_(absent, 0.0)

    def averaged(self) -> _Averaged:
        """A context in which parameters hold their averages, where they have one."""
        return _Averaged(self)

    def adopt_averages(self) -> None:
        """Parameters become their averages, where they have one; for the end of the training."""
        self.averaged().__enter__()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "history"})
        self.history = list(state_dict.get("history", []))


class _Averaged:
    def __init__(self, optimizer: SNTASGD) -> None:
        self._optimizer = optimizer
        self._saved: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> None:
        with torch.no_grad():
            for parameter, state in self._optimizer.state.items():
                if "average" in state:
                    self._saved.append((parameter, parameter.detach().clone()))
                    parameter.copy_(torch.where(state["count"] > 0, state["average"], parameter))

    def __exit__(self, *exception: object) -> None:
        with torch.no_grad():
            for parameter, value in self._saved:
                parameter.copy_(value)
        self._saved.clear()
