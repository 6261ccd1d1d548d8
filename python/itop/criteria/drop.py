"""Which active weights are dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from itop.context import Context
from itop.topology import BitSet, Scores


class DropCriterion(ABC):
    """Chooses which active weights go."""

    @abstractmethod
    def drop(self, context: Context, fraction: float) -> BitSet:
        """The weights to drop: ``fraction`` of each layer's active weights."""


def drop_counts(context: Context, fraction: float) -> list[int]:
    """Weights to drop in each layer: the nearest whole number. A dense layer has nothing to explore and keeps all."""
    topology = context.topology
    return [
        0 if active == layer.numel else round(fraction * active)
        for layer, active in zip(topology.layers, topology.num_active, strict=True)
    ]


class ScoreDrop(DropCriterion):
    """Drops the active weights with the smallest scores, layer by layer. Subclasses say what the score is."""

    @abstractmethod
    def scores(self, context: Context) -> Scores:
        """One tensor a layer; the smallest go first."""

    def drop(self, context: Context, fraction: float) -> BitSet:
        topology = context.topology
        return topology.select(topology.active, drop_counts(context, fraction), self.scores(context), largest=False)


@final
@dataclass(frozen=True, slots=True)
class MagnitudeDrop(ScoreDrop):
    """The smallest magnitudes. The mask is the truth: an active weight that is exactly zero counts and goes first."""

    def scores(self, context: Context) -> Scores:
        return Scores(context.topology.weights())


@final
@dataclass(frozen=True, slots=True)
class SignedMagnitudeDrop(DropCriterion):
    """The fraction of the smallest positive and the fraction of the largest negative weights, separately.

    Active weights that are exactly zero go with the positive ones.

    Reference:
        Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity, 2018, algorithm 1.
    """

    def drop(self, context: Context, fraction: float) -> BitSet:
        topology = context.topology
        weights = topology.weights()
        negative = topology.active & topology.from_tensors([weight < 0 for weight in weights])
        positive = topology.active - negative
        open_layers = [active < layer.numel for layer, active in zip(topology.layers, topology.num_active, strict=True)]
        chosen = topology.empty()
        for side in (positive, negative):
            k = [
                round(fraction * count) if is_open else 0
                for count, is_open in zip(side.counts(), open_layers, strict=True)
            ]
            chosen = chosen | topology.select(side, k, Scores(weights), largest=False)
        return chosen
