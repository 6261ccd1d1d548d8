"""Dynamic network surgery (Guo et al., Dynamic network surgery for efficient DNNs, NeurIPS 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.hidden_weights import ChosenMasks
from itop.selection import Scores

_THRESHOLDS = "thresholds"


@final
@dataclass(frozen=True, slots=True)
class DynamicNetworkSurgery(ChosenMasks):
    """Weights go off below 0.9 c and on again above 1.1 c; hidden weights keep their gradient and may be spliced back.

    ``c = max(mean + c_rate * std, 0)`` of a layer's initial ``abs(w)``. Masks change at a step with probability
    ``(1 + gamma t) ** -power``.

    Args:
        c_rate: None: no constant c, but that of the moment which leaves a layer its target density: the smallest
            ``abs(w)`` of its largest weights, looked up whenever masks change.
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
            topology = context.topology
            largest = topology.select(topology.full(), context.target_counts, Scores(weights)).to_tensors()
            sizes = [weight.abs()[mask] for weight, mask in zip(weights, largest, strict=True)]
            return [float(size.min()) if size.numel() else float("inf") for size in sizes]
        magnitudes = [weight.abs() for weight in weights]
        return [max(float(size.mean() + self.c_rate * size.std()), 0.0) for size in magnitudes]

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        if masks is None:
            if self.c_rate is not None:
                context.state[_THRESHOLDS] = self.thresholds(context, weights)
            return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
        chance = (1.0 + self.gamma * context.step) ** -self.power
        if float(context.noise(0).flatten()[0]) >= chance:
            return masks
        constant: list[float] | None = context.state.get(_THRESHOLDS)
        thresholds = self.thresholds(context, weights) if constant is None else constant
        return [
            (mask & (weight.abs() > 0.9 * threshold)) | (weight.abs() > 1.1 * threshold)
            for weight, mask, threshold in zip(weights, masks, thresholds, strict=True)
        ]
