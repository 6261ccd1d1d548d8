"""Which inactive weights are grown."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch.optim import NAdam, RAdam
from torch.optim.adam import Adam

from itop import _core
from itop.context import Context
from itop.criteria.averages import gradient_average, update_average
from itop.criteria.drop import sampled
from itop.criteria.observer import Part, WrappingPart
from itop.held_masks import is_native
from itop.ranges import LESS_THAN_ALL, NOT_NEGATIVE, POSITIVE
from itop.selection import BitSet, Quota, Scores


class GrowCriterion(Part):
    """Chooses which candidates become active."""

    @abstractmethod
    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int] | Quota, preferred: BitSet | None = None
    ) -> BitSet:
        """Exactly ``counts[l]`` of layer l's candidates (all, where there are fewer), or what a quota says.

        Args:
            candidates: The sites that may be grown: whatever their score, only these.
            counts: One a layer.
            preferred: Candidates in this set come before all others.
        """


@final
@dataclass(frozen=True, slots=True)
class RandomGrowth(GrowCriterion):
    """Uniformly at random, without replacement (Mocanu et al., 2018)."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int] | Quota, preferred: BitSet | None = None
    ) -> BitSet:
        return context.topology.select(candidates, counts, preferred=preferred)


class ScoreGrowth(GrowCriterion):
    """Grows the candidates with the largest scores. Subclasses say what the score is."""

    @abstractmethod
    def scores(self, context: Context) -> Scores:
        """One tensor a layer; the largest are grown."""

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int] | Quota, preferred: BitSet | None = None
    ) -> BitSet:
        return context.topology.select(candidates, counts, self.scores(context), preferred=preferred)


@final
@dataclass(frozen=True, slots=True)
class GradientGrowth(ScoreGrowth):
    """The largest magnitudes of the loss gradient, that of the whole optimiser step (Evci et al., ICML 2020)."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

    @property
    def needs_gradient(self) -> bool:
        return True

    def scores(self, context: Context) -> Scores:
        return context.topology.gradient_scores()


MOMENTUM = "gradient average"
SECOND_MOMENT = "squared gradient average"


@final
@dataclass(frozen=True, slots=True)
class MomentumGrowth(ScoreGrowth):
    """The largest magnitudes of the averaged gradient (Dettmers & Zettlemoyer, 2019).

    Inactive weights carry no optimiser state, so the average is this rule's own, over the dense gradients of all steps:
    4 bytes a weight, 8 beside an optimiser of Adam's kind, where the average is divided by ``sqrt(v) + 1e-8``.

    Args:
        decay: Of the average; that of SGD's usual momentum.
        second_decay: Of the average of squares.
    """

    decay: float = 0.9
    second_decay: float = 0.999

    def __post_init__(self) -> None:
        LESS_THAN_ALL.require("momentum", self.decay)
        LESS_THAN_ALL.require("second_decay", self.second_decay)

    @property
    def works_truly_sparse(self) -> bool:
        return True

    @property
    def needs_gradient_every_step(self) -> bool:
        return True

    def observe(self, context: Context) -> None:
        update_average(context, MOMENTUM, self.decay)
        if _normalises(context):
            update_average(context, SECOND_MOMENT, self.second_decay, lambda gradient, weight: gradient.square())

    def scores(self, context: Context) -> Scores:
        return momentum_scores(context)


def momentum_scores(context: Context) -> Scores:
    """The averaged gradient of each layer, divided by the root of the averaged square beside Adam."""
    first = gradient_average(context, MOMENTUM)
    if first is None:
        raise RuntimeError("momentum is averaged over steps; make at least one optimiser step before an update")
    second = gradient_average(context, SECOND_MOMENT)
    if second is None:
        return Scores(first)
    return Scores([m / (v.sqrt() + 1e-8) for m, v in zip(first, second, strict=True)])


def _normalises(context: Context) -> bool:
    return isinstance(context.optimizer, (Adam, NAdam, RAdam))


_ACTIVE_UPDATES = "updates active"


@final
@dataclass(frozen=True, slots=True)
class ExplorationBonusGrowth(ScoreGrowth):
    """Gradient magnitude plus a bonus for weights that were rarely active: ``abs(g) + c ln(t) / (n + epsilon)``.

    n is in how many updates so far the weight was active, t the step. Keeps n for every weight, 2 bytes each: up to 32,767.

    Args:
        bonus: c; 0 is growth by gradient.
        epsilon: Above 0; how much a weight that was never active stands out.

    Reference:
        Huang et al., Dynamic sparse training via balancing the exploration-exploitation trade-off, DAC 2023.
    """

    bonus: float = 1e-3
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        NOT_NEGATIVE.require("bonus", self.bonus)
        POSITIVE.require("epsilon", self.epsilon)

    @property
    def needs_gradient(self) -> bool:
        return True

    def scores(self, context: Context) -> Scores:
        topology = context.topology
        counts = context.state.setdefault(_ACTIVE_UPDATES, [])
        if not counts:
            counts.extend(torch.zeros_like(weight, dtype=torch.int16) for weight in topology.weights())
        bonus = self.bonus * math.log(max(context.step, 1))
        scores = []
        for i, (count, gradient) in enumerate(zip(counts, context.gradients(), strict=True)):
            if (
                is_native(gradient)
                and count.dtype == torch.int16
                and count.is_contiguous()
                and gradient.is_contiguous()
            ):
                score = torch.empty_like(gradient)
                _core.exploration_scores(
                    topology.active.native,
                    i,
                    gradient,
                    bonus=bonus,
                    epsilon=self.epsilon,
                    counts=count.numpy().reshape(-1),
                    scores=score,
                )
            else:
                count += topology.active.to_tensor(i)
                score = count.add(self.epsilon).reciprocal_().mul_(bonus).add_(gradient.abs())
            scores.append(score)
        return Scores(scores)


@final
@dataclass(frozen=True, slots=True)
class SoftGrowth(WrappingPart, ScoreGrowth):
    """Grows at random, sites with large scores more likely: without replacement, ``p ~ score^(1 / temperature)``.

    Args:
        rule: Whose scores.
        temperature: Above 0; towards 0 it becomes the rule it wraps.
    """

    rule: ScoreGrowth = field(default_factory=GradientGrowth)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        POSITIVE.require("temperature", self.temperature)

    def scores(self, context: Context) -> Scores:
        return sampled(context, self.rule.scores(context), self.temperature, favours_large=True)


@final
@dataclass(frozen=True, slots=True)
class UnexploredFirst(WrappingPart, GrowCriterion):
    """Never-explored sites while they last, then the rule it wraps; among each, by that rule.

    Reaches the bound ``R_s <= min(1, d (1 + sum P_i))`` that holds for any growth rule.
    """

    rule: GrowCriterion = field(default_factory=RandomGrowth)

    @property
    def works_truly_sparse(self) -> bool:
        return self.rule.works_truly_sparse

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int] | Quota, preferred: BitSet | None = None
    ) -> BitSet:
        unexplored = ~context.topology.explored
        return self.rule.grow(context, candidates, counts, unexplored if preferred is None else unexplored & preferred)
