"""Dynamic network surgery (Guo et al., Dynamic network surgery for efficient DNNs, NeurIPS 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.chosen_masks import ChosenMasks
from itop.ranges import FINITE, NOT_NEGATIVE
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

    def check_options(self) -> None:
        if self.c_rate is not None:
            FINITE.require("c_rate", self.c_rate)
        NOT_NEGATIVE.require("gamma", self.gamma)
        NOT_NEGATIVE.require("power", self.power)

    @property
    def name(self) -> str:
        return "surgery"

    def constant(self, weight: Tensor) -> float:
        """c of a layer by its initial weights."""
        assert self.c_rate is not None
        size = weight.abs()
        spread = float(size.std()) if size.numel() > 1 else 0.0
        return max(float(size.mean()) + self.c_rate * spread, 0.0)

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        if masks is None:
            if self.c_rate is not None:
                context.state[_THRESHOLDS] = [self.constant(weight) for weight in weights]
            return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
        chance = (1.0 + self.gamma * context.step) ** -self.power
        if float(context.noise(0).flatten()[0]) >= chance:
            return masks
        topology = context.topology
        thresholds: list[float] | None = context.state.get(_THRESHOLDS)
        if thresholds is None:
            largest = topology.select(topology.full(), context.target_counts, Scores(weights))
            thresholds = topology.smallest_magnitudes(weights, largest)
        stays, returns = (
            topology.where(weights, limit=[factor * c for c in thresholds], greater=True, magnitude=True)
            for factor in (0.9, 1.1)
        )
        return ((topology.active & stays) | returns).to_tensors()
