"""Which inactive weights are grown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from itop.context import Context
from itop.topology import BitSet, Scores


class GrowCriterion(ABC):
    """Chooses which candidates become active."""

    @property
    def needs_gradient(self) -> bool:
        """Whether it looks at the dense gradient of the update step."""
        return False

    @abstractmethod
    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int], preferred: BitSet | None = None
    ) -> BitSet:
        """Exactly ``counts[l]`` of layer l's candidates (all, where there are fewer).

        Args:
            candidates: The sites that may be grown: whatever their score, only these.
            counts: One a layer.
            preferred: Candidates in this set come before all others.
        """


@final
@dataclass(frozen=True, slots=True)
class RandomGrowth(GrowCriterion):
    """Uniformly at random, without replacement (Mocanu et al., 2018)."""

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int], preferred: BitSet | None = None
    ) -> BitSet:
        return context.topology.select(candidates, counts, preferred=preferred)


class ScoreGrowth(GrowCriterion):
    """Grows the candidates with the largest scores. Subclasses say what the score is."""

    @abstractmethod
    def scores(self, context: Context) -> Scores:
        """One tensor a layer; the largest are grown."""

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int], preferred: BitSet | None = None
    ) -> BitSet:
        return context.topology.select(candidates, counts, self.scores(context), preferred=preferred)


@final
@dataclass(frozen=True, slots=True)
class GradientGrowth(ScoreGrowth):
    """The largest magnitudes of the loss gradient, that of the whole optimiser step (Evci et al., ICML 2020)."""

    @property
    def needs_gradient(self) -> bool:
        return True

    def scores(self, context: Context) -> Scores:
        return Scores(context.topology.gradients())


@final
@dataclass(frozen=True, slots=True)
class UnexploredFirst(GrowCriterion):
    """Never-explored sites while they last, then the rule it wraps; among each, by that rule.

    Reaches the bound ``R_s <= min(1, d (1 + sum P_i))`` that holds for any growth rule.
    """

    rule: GrowCriterion = field(default_factory=RandomGrowth)

    @property
    def needs_gradient(self) -> bool:
        return self.rule.needs_gradient

    def grow(
        self, context: Context, candidates: BitSet, counts: Sequence[int], preferred: BitSet | None = None
    ) -> BitSet:
        unexplored = ~context.topology.explored
        return self.rule.grow(context, candidates, counts, unexplored if preferred is None else unexplored & preferred)
