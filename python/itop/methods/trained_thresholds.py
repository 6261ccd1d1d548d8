"""Thresholds that are trained: STR, trainable masked layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from itop.context import Context
from itop.methods.hidden_weights import HiddenWeights
from itop.ranges import FINITE, NOT_NEGATIVE


@final
@dataclass(frozen=True, slots=True)
class STR(HiddenWeights):
    """Soft threshold reparameterisation: ``sign(w) relu(abs(w) - sigmoid(s))``, one s a layer (Kusupati et al., ICML 2020).

    Weight decay acts on s and so raises the threshold; that of the optimiser is the method's.

    Args:
        initial: s at the start; the paper's ResNet-50 has -3200, far below any gradient's reach, and lets decay raise it.
    """

    initial: float = -5.0

    def check_options(self) -> None:
        FINITE.require("initial", self.initial)

    @property
    def name(self) -> str:
        return "str"

    @property
    def decays(self) -> bool:
        return True

    def add_parameters(self, context: Context) -> None:
        self.add_to_layers(
            context,
            "threshold",
            [torch.tensor(self.initial, device=weight.device) for weight in context.topology.weights()],
        )

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        threshold = torch.sigmoid(self.parameter(context, "threshold", layer))
        if not torch.is_grad_enabled():
            return F.softshrink(weight, float(threshold))  # the same in one pass
        return torch.sign(weight) * torch.relu(weight.abs() - threshold)


class _Step(torch.autograd.Function):
    """1 where positive; backward the long-tailed estimator ``2 - 4 abs(x)`` to 0.4, 0.4 to 1, then 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        size = x.abs()
        slope = torch.where(size <= 0.4, 2.0 - 4.0 * size, torch.where(size <= 1.0, 0.4, 0.0))
        return gradients[0] * slope.to(x.dtype)


@final
@dataclass(frozen=True, slots=True)
class TrainableThresholds(HiddenWeights):
    """A trained threshold for each output unit: ``w * step(abs(w) - t)`` (Liu et al., ICLR 2020).

    A unit that would lose all its weights has its threshold reset to 0. The penalty is ``sum(exp(-t))``.

    Args:
        penalty: alpha; larger is sparser (?).
    """

    penalty: float = 1e-4

    def check_options(self) -> None:
        NOT_NEGATIVE.require("penalty", self.penalty)

    @property
    def name(self) -> str:
        return "trainable-thresholds"

    def add_parameters(self, context: Context) -> None:
        self.add_to_layers(
            context,
            "threshold",
            [torch.zeros(len(weight), device=weight.device) for weight in context.topology.weights()],
        )

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        threshold = self.parameter(context, "threshold", layer)
        distance = weight.abs() - threshold.view(-1, *[1] * (weight.dim() - 1))
        passed: Tensor = _Step.apply(distance)
        return weight * passed

    def after_optimizer(self, context: Context, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for i, weight in enumerate(weights):
                threshold = self.parameter(context, "threshold", i)
                threshold.masked_fill_(weight.abs().flatten(1).amax(1) <= threshold, 0.0)

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context):
            return None
        terms = [torch.exp(-threshold).sum() for threshold in context.parameters.values()]
        return self.penalty * torch.stack(terms).sum()
