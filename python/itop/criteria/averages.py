"""Running averages of gradients that inactive weights have too.

An optimiser keeps momentum for active weights only: that of inactive ones is zero, always. A criterion that grows by
momentum therefore keeps an average of its own, over the dense gradient of every step: 4 bytes a weight (8 with second
moments), in ``context.state``, saved with the engine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from itop.context import Context


def gradient_average(context: Context, key: str) -> list[Tensor] | None:
    """The average kept under a key, one dense float32 tensor a layer; None before the first step."""
    return context.state.get(key)


def update_average(
    context: Context,
    key: str,
    decay: float,
    value: Callable[[Tensor, Tensor], Tensor] = lambda gradient, weight: gradient,
) -> None:
    """``average <- decay * average + (1 - decay) * value(gradient, weight)``, once a step whoever asks."""
    last = f"{key} step"
    if context.state.get(last) == context.step:
        return
    context.state[last] = context.step
    with torch.no_grad():
        values = [
            value(gradient.float(), weight.float())
            for gradient, weight in zip(context.gradients(), context.topology.weights(), strict=True)
        ]
        averages = context.state.get(key)
        if averages is None:
            context.state[key] = [entry.mul(1.0 - decay) for entry in values]
            return
        for average, entry in zip(averages, values, strict=True):
            average.mul_(decay).add_(entry, alpha=1.0 - decay)
