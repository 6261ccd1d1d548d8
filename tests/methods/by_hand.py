"""A few weights, gradients of the test's choosing, and what an engine makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import METHODS, Method
from itop.update_report import UpdateReport

Rows = Sequence[Sequence[float]]


class ByHand:
    """Linear layers without biases, given as matrices ``[out, in]``, under one engine.

    The rate is next to nothing unless said, so that an update sees the weights that are written down.

    Args:
        layers: The weights.
        masks: What is active at first, one matrix of 0 and 1 a layer; None: as the method begins.
    """

    def __init__(
        self,
        method: str | Method,
        *layers: Rows,
        masks: Sequence[Rows] | None = None,
        lr: float = 1e-30,
        sparsity: float = 0.5,
        total_steps: int = 10,
        optimizer: Any = torch.optim.SGD,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.model = nn.Sequential(*(linear(rows) for rows in layers))
        self.optimizer = optimizer(self.model.parameters(), lr=lr, **(settings or {}))
        self.engine = SparseEngine(
            self.model, self.optimizer, method, sparsity=sparsity, total_steps=total_steps, **options
        )
        if masks is not None:
            topology = self.engine.topology
            topology.initialise(topology.from_tensors([torch.tensor(mask).bool() for mask in masks]))
            with torch.no_grad():
                for parameter, rows, mask in zip(self.model.parameters(), layers, masks, strict=True):
                    parameter.copy_(torch.tensor(rows, dtype=torch.float32) * torch.tensor(mask))

    @property
    def state(self) -> dict[str, Any]:
        """What the method remembers."""
        return self.engine._context.state

    def step(self, *gradients: Rows) -> UpdateReport | None:
        """An optimiser step with these gradients, one matrix a layer; zeros where none is given."""
        for i, parameter in enumerate(self.model.parameters()):
            chosen = gradients[i] if i < len(gradients) else None
            parameter.grad = torch.zeros_like(parameter) if chosen is None else torch.tensor(chosen).float()
        self.optimizer.step()
        return self.engine.last_update

    def weights(self, layer: int = 0) -> Tensor:
        return list(self.model.parameters())[layer].detach().clone()

    def set_weights(self, *layers: Rows) -> None:
        """Writes other weights where they are active, as training would."""
        with torch.no_grad():
            for i, (parameter, rows) in enumerate(zip(self.model.parameters(), layers, strict=True)):
                parameter.copy_(torch.tensor(rows, dtype=torch.float32) * self.engine.topology.mask(i))

    def active(self, layer: int = 0) -> list[list[int]]:
        return self.engine.topology.mask(layer).int().tolist()


def linear(rows: Rows) -> nn.Linear:
    """A layer with these weights and no bias."""
    weight = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def preset(name: str, **options: Any) -> Method:
    return METHODS[name](**options)
