"""Dynamic network surgery (Guo et al., Dynamic network surgery for efficient DNNs, NeurIPS 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.hidden_weights import ChosenMasks

_THRESHOLDS = "thresholds"


@final
@dataclass(frozen=True, slots=True)
class DynamicNetworkSurgery(ChosenMasks):
    """Weights go off below 0.9 c and on again above 1.1 c; hidden weights keep their gradient and may be spliced back.

    ``c = max(mean + c_rate * std, 0)`` of a layer's initial ``abs(w)``. Masks change at a step with probability
    ``(1 + gamma t) ** -power``.

    Args:
        c_rate: None: the c of each layer that leaves its target density at the start.
        gamma, power: How fast surgery calms down (?).
    """

    c_rate: float | None = None
    gamma: float = 1e-4
    power: float = 1.0

    @property
    def name(self) -> str:
        return "surgery"

    def thresholds(self, context: Context, weights: Sequence[Tensor]) -> list[float]:
        """c of each layer."""
        if self.c_rate is None:
            return [
                float(weight.abs().flatten().float().kthvalue(max(1, weight.numel() - count)).values)
                for weight, count in zip(weights, context.target_counts, strict=True)
            ]
        magnitudes = [weight.abs() for weight in weights]
        return [max(float(size.mean() + self.c_rate * size.std()), 0.0) for size in magnitudes]

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        if masks is None:
            context.state[_THRESHOLDS] = self.thresholds(context, weights)
            return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
        chance = (1.0 + self.gamma * context.step) ** -self.power
        if float(context.noise(0).flatten()[0]) >= chance:
            return masks
        thresholds: list[float] = context.state[_THRESHOLDS]
        return [
            (mask & (weight.abs() > 0.9 * threshold)) | (weight.abs() > 1.1 * threshold)
            for weight, mask, threshold in zip(weights, masks, thresholds, strict=True)
        ]
