"""Gradient flow: the norm of the gradient over active weights, and how a topology update changes it.

Reference:
    Evci et al., Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win, AAAI 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from itop.analysis.preserving import buffers_kept, eager_model, random_state_kept


@final
@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Norms of the gradient.

    Attributes:
        total: Euclidean norm over the active weights of all layers together.
        layers: That of each layer by name.
    """

    total: float
    layers: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class GradientFlowChange:
    """Gradient flow on the same batch just before and just after a topology update."""

    before: GradientFlow
    after: GradientFlow

    @property
    def ratio(self) -> float:
        """After over before; above 1 the update has helped the gradient flow. NaN where there was none before."""
        return self.after.total / self.before.total if self.before.total > 0.0 else math.nan


def gradient_flow(gradients: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> GradientFlow:
    """Norm of given gradients over active weights, accumulated in float64.

    Args:
        gradients: By parameter name; more than the masks' layers may be there.
        masks: bool by layer name, of the gradients' shapes.

    Raises:
        ValueError: If a mask has no gradient, or another shape.
    """
    squares: dict[str, Tensor] = {}
    for name, mask in masks.items():
        if name not in gradients:
            raise ValueError(f"gradients must hold every masked layer, got none for {name}")
        gradient = gradients[name].detach()
        if gradient.shape != mask.shape:
            raise ValueError(
                f"gradient of {name} must have the mask's shape {tuple(mask.shape)}, got {tuple(gradient.shape)}"
            )
        squares[name] = gradient[mask.to(gradient.device)].double().square().sum()
    norms = {name: math.sqrt(square.item()) for name, square in squares.items()}
    return GradientFlow(math.hypot(*norms.values()), norms)


def measure_gradient_flow(model: nn.Module, masks: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> GradientFlow:
    """Gradient flow of a loss, leaving ``grad`` fields, buffers and random state as they were.

    Args:
        model: Whose parameters the masks name.
        masks: bool by layer name.
        loss: Runs the model on a batch of its choice and returns the scalar loss with its graph.

    Raises:
        ValueError: If a mask names no parameter.
    """
    network = eager_model(model)
    parameters = dict(network.named_parameters())
    unknown = [name for name in masks if name not in parameters]
    if unknown:
        raise ValueError(f"masks must name parameters of the model, got {unknown[0]}")
    with buffers_kept(network), random_state_kept(network), torch.enable_grad():
        gradients = torch.autograd.grad(loss(), [parameters[name] for name in masks], materialize_grads=True)
    return gradient_flow(dict(zip(masks, gradients, strict=True)), masks)


def gradient_flow_around(
    update: Callable[[], object],
    model: nn.Module,
    masks: Callable[[], Mapping[str, Tensor]],
    loss: Callable[[], Tensor],
) -> GradientFlowChange:
    """Gradient flow before and after one topology update, on the same batch and the same random numbers.

    Args:
        update: Makes the update, such as ``engine.update``; gradients it grows by must already be in ``grad``.
        model: Whose parameters the masks name.
        masks: Reads the present masks, such as ``lambda: masks_of(engine)``.
        loss: As in ``measure_gradient_flow``; the same batch at every call.
    """
    before = measure_gradient_flow(model, masks(), loss)
    update()
    return GradientFlowChange(before, measure_gradient_flow(model, masks(), loss))
