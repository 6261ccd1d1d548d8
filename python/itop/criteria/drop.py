"""Which active weights are dropped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.criteria.averages import gradient_average, update_average
from itop.criteria.observer import Part, WrappingPart
from itop.criteria.patterns import Pattern, Unstructured
from itop.ranges import LESS_THAN_ALL, NOT_NEGATIVE, POSITIVE
from itop.selection import BitSet, Scores


class DropCriterion(Part):
    """Chooses which active weights go."""

    @abstractmethod
    def drop(
        self,
        context: Context,
        fraction: float,
        candidates: BitSet | None = None,
        pattern: Pattern | None = None,
    ) -> BitSet:
        """The weights to drop: ``fraction`` of each layer's candidates.

        Args:
            candidates: Active weights that may go; None: all.
            pattern: What the active weights must look like; None: anything.
        """


def drop_counts(context: Context, fraction: float, candidates: BitSet | None = None) -> list[int]:
    """Weights to drop in each layer: the nearest whole number. A dense layer has nothing to explore and keeps all,
    and so does a layer that is frozen.
    """
    counts = context.topology.num_active if candidates is None else candidates.counts()
    return [
        round(fraction * count) if is_open else 0
        for count, is_open in zip(counts, _open_layers(context, counts), strict=True)
    ]


def _open_layers(context: Context, counts: Sequence[int]) -> list[bool]:
    """Which layers may drop weights, given how many are active in each."""
    return [
        count < layer.numel and layer.parameter.requires_grad
        for layer, count in zip(context.topology.layers, counts, strict=True)
    ]


class ScoreDrop(DropCriterion):
    """Drops the active weights with the smallest scores, layer by layer. Subclasses say what the score is."""

    @abstractmethod
    def scores(self, context: Context) -> Scores:
        """One tensor a layer; the smallest go first."""

    def drop(
        self,
        context: Context,
        fraction: float,
        candidates: BitSet | None = None,
        pattern: Pattern | None = None,
    ) -> BitSet:
        counts = drop_counts(context, fraction, candidates)
        among = context.topology.active if candidates is None else candidates
        quota = (pattern or Unstructured()).drop_quota(context, counts, among)
        return self.drop_exactly(context, quota, candidates)

    def drop_exactly(
        self, context: Context, counts: Sequence[int] | int | object, candidates: BitSet | None = None
    ) -> BitSet:
        """The candidates with the smallest scores: so many a layer, in all, or as a quota says."""
        topology = context.topology
        among = topology.active if candidates is None else candidates
        return topology.select(among, counts, self.scores(context), largest=False)  # type: ignore[arg-type]


@final
@dataclass(frozen=True, slots=True)
class MagnitudeDrop(ScoreDrop):
    """The smallest magnitudes. The mask is the truth: an active weight that is exactly zero counts and goes first."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

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

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def drop(
        self,
        context: Context,
        fraction: float,
        candidates: BitSet | None = None,
        pattern: Pattern | None = None,
    ) -> BitSet:
        topology = context.topology
        weights = topology.weights()
        among = topology.active if candidates is None else candidates
        negative = among & topology.where(weights, limit=0.0)
        positive = among - negative
        open_layers = _open_layers(context, among.counts())
        chosen = topology.empty()
        for side in (positive, negative):
            k = [
                round(fraction * count) if is_open else 0
                for count, is_open in zip(side.counts(), open_layers, strict=True)
            ]
            chosen = chosen | topology.select(side, k, Scores(weights), largest=False)
        return chosen


@final
@dataclass(frozen=True, slots=True)
class MagnitudeAndGradientDrop(ScoreDrop):
    """The smallest ``abs(w) + weight * abs(g)``; only gradients of active weights are looked at (Yuan et al., 2021).

    Args:
        gradient_weight: lambda.
    """

    gradient_weight: float = 1.0

    def __post_init__(self) -> None:
        NOT_NEGATIVE.require("gradient_weight", self.gradient_weight)

    def scores(self, context: Context) -> Scores:
        return Scores(
            [
                weight.abs().add(gradient.abs(), alpha=self.gradient_weight)
                for weight, gradient in zip(context.topology.weights(), context.gradients(), strict=True)
            ]
        )


_TAYLOR = "taylor average"
_SENSITIVITY = "sensitivity average"


@final
@dataclass(frozen=True, slots=True)
class TaylorDrop(ScoreDrop):
    """The smallest ``(g w)^2``: the squared change of the loss, to first order, if the weight went.

    Args:
        decay: Of the running average over steps (Molchanov 2019 averages over minibatches); 0 takes the last step's.

    Reference:
        Molchanov et al., Importance estimation for neural network pruning, CVPR 2019, equation 8.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        LESS_THAN_ALL.require("decay", self.decay)

    def observe(self, context: Context) -> None:
        update_average(context, _TAYLOR, self.decay, lambda gradient, weight: (gradient * weight).square_())

    def scores(self, context: Context) -> Scores:
        return Scores(_observed(context, _TAYLOR))


@final
@dataclass(frozen=True, slots=True)
class SensitivityDrop(ScoreDrop):
    """The smallest average ``abs(g)``: weights that the loss hardly feels.

    After Tartaglione et al. (NeurIPS 2018), who measure the outputs' sensitivity; this one is the loss's (?).

    Args:
        decay: Of the running average over steps.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        LESS_THAN_ALL.require("decay", self.decay)

    def observe(self, context: Context) -> None:
        update_average(context, _SENSITIVITY, self.decay, lambda gradient, weight: gradient.abs())

    def scores(self, context: Context) -> Scores:
        return Scores(_observed(context, _SENSITIVITY))


@final
@dataclass(frozen=True, slots=True)
class SoftDrop(WrappingPart, ScoreDrop):
    """Drops at random, weights with small scores more likely: without replacement, ``p ~ score^(-1 / temperature)``.

    Sampling is selection by ``log(score) / temperature + Gumbel noise``; as the temperature falls to 0 it becomes the
    rule it wraps.

    Args:
        rule: Whose scores.
        temperature: Above 0.

    Reference:
        Kool et al., Stochastic beams and where to find them, ICML 2019, on the Gumbel-top-k trick.
    """

    rule: ScoreDrop = field(default_factory=MagnitudeDrop)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        POSITIVE.require("temperature", self.temperature)

    def scores(self, context: Context) -> Scores:
        keys = sampled(context, self.rule.scores(context), self.temperature, favours_large=False)
        return Scores([-key for key in keys.tensors], signed=True)


def sampled(context: Context, scores: Scores, temperature: float, *, favours_large: bool) -> Scores:
    """Keys whose largest are a sample without replacement with ``p ~ score^(+-1 / temperature)``."""
    sign = 1.0 if favours_large else -1.0
    keys = []
    for i, tensor in enumerate(scores.tensors):
        magnitude = tensor.detach().float().abs().clamp_min(torch.finfo(torch.float32).tiny)
        uniform = context.topology.random(i).clamp_(1e-7, 1.0 - 1e-7)
        keys.append(sign / temperature * magnitude.log() - torch.log(-torch.log(uniform)))
    return Scores(keys, signed=True)


def _observed(context: Context, key: str) -> list[Tensor]:
    average = gradient_average(context, key)
    if average is None:
        raise RuntimeError("this criterion averages over steps; make at least one optimiser step before an update")
    return average
