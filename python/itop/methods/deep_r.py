"""Deep rewiring (Bellec et al., Deep rewiring: training very sparse deep networks, ICLR 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.context import Context
from itop.methods.method import Method
from itop.ranges import NOT_NEGATIVE
from itop.schedules import Every, UpdateSchedule
from itop.update_report import UpdateReport

_POSITIVE = "positive signs"
_START = 1e-12


@final
@dataclass(frozen=True, slots=True)
class DeepR(Method):
    """Every connection has a fixed sign; one that changes it goes dormant, and a random one wakes anywhere in the network.

    After each step active weights take a step of l1 and Gaussian noise of ``sqrt(2 lr temperature)``; weights whose sign
    is then wrong are dropped, and as many, uniform over the dormant ones of all layers, start at 1e-12 with their sign.
    Signs cost one byte a weight.

    Args:
        l1: Pull towards zero, times the learning rate.
        temperature: Of the random walk; 0 is without noise (?).
    """

    l1: float = 1e-5
    temperature: float = 1e-9
    allocation: AllocationLike = "erk"

    def __post_init__(self) -> None:
        NOT_NEGATIVE.require("l1", self.l1)
        NOT_NEGATIVE.require("temperature", self.temperature)

    @property
    def name(self) -> str:
        return "deep-r"

    @property
    def schedule(self) -> UpdateSchedule:
        return Every(1)

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def initialise(self, context: Context) -> None:
        Method.initialise(self, context)
        topology = context.topology
        context.state[_POSITIVE] = [
            torch.where(weight != 0, weight > 0, topology.random(i) < 0.5)
            for i, weight in enumerate(topology.weights())
        ]

    def after_step(self, context: Context) -> None:
        topology = context.topology
        for i, (weight, mask) in enumerate(zip(topology.weights(), topology.active.to_tensors(), strict=True)):
            if not topology.layers[i].parameter.requires_grad:
                continue
            rate = context.learning_rate(i)
            change = torch.sign(weight) * (-rate * self.l1)
            if self.temperature > 0.0:
                uniform = context.noise(i).clamp_(1e-7, 1.0 - 1e-7)
                normal = math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)
                change = change + math.sqrt(2.0 * rate * self.temperature) * normal
            weight.add_(change * mask)

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        positive: list[Tensor] = context.state[_POSITIVE]
        weights = topology.weights()
        # An active weight at exactly zero has not crossed over: it waits.
        belongs_above = topology.from_tensors(positive)
        below, above = topology.where(weights, limit=0.0), topology.where(weights, limit=0.0, greater=True)
        dropped = topology.active & ((below & belongs_above) | (above - belongs_above))
        count = sum(dropped.counts())
        grown = topology.select(~topology.active, count)
        if sum(grown.counts()) < count:
            dropped = topology.select(dropped, sum(grown.counts()))
        report = topology.commit(dropped, grown, zero_all_inactive=context.zero_all_inactive)
        for weight, sign, mask in zip(weights, positive, grown.to_tensors(), strict=True):
            places = mask.nonzero(as_tuple=True)
            weight[places] = torch.where(sign[places], _START, -_START).to(weight.dtype)
        return report

    def options(self) -> dict[str, Any]:
        return {"l1": self.l1, "temperature": self.temperature}
