"""Initial masks that need no data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from itop.context import Context
from itop.selection import BitSet, Scores


class InitialMasks(ABC):
    """Which weights are active before the first step."""

    @property
    def needs_data(self) -> bool:
        """Whether it looks at training batches, which the engine must then be given."""
        return False

    @property
    def works_on_shards(self) -> bool:
        """Whether it chooses the same masks where each rank holds a part of a layer."""
        return True

    @property
    def works_truly_sparse(self) -> bool:
        """Whether it asks nothing of inactive weights, which a truly sparse layer does not hold."""
        return False

    @abstractmethod
    def masks(self, context: Context) -> BitSet:
        """The initial active set; ``context.target_counts`` holds what the allocation asks of each layer."""

    def counts(self, context: Context) -> list[int]:
        """Weights of each layer that a pattern rounds to what it admits."""
        return context.target_counts

    def scores(self, context: Context) -> Scores | None:
        """What a pattern ranks weights by to build masks of its own; None: it chooses at random."""
        return None


@final
@dataclass(frozen=True, slots=True)
class RandomMasks(InitialMasks):
    """Exactly as many weights as the allocation says, uniformly at random (Mocanu et al., 2018)."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def masks(self, context: Context) -> BitSet:
        return context.topology.select(context.topology.full(), context.target_counts)


@final
@dataclass(frozen=True, slots=True)
class DenseMasks(InitialMasks):
    """Every weight, whatever the allocation says: dense training, or the start of dense-to-sparse methods."""

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def masks(self, context: Context) -> BitSet:
        return context.topology.full()

    def counts(self, context: Context) -> list[int]:
        return [layer.numel for layer in context.topology.layers]


@final
@dataclass(frozen=True, slots=True)
class RandomMasksOfDensity(InitialMasks):
    """Random masks at another density than the target, distributed by the same allocation; 1 is dense.

    Args:
        density: In (0, 1].
    """

    density: float

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def masks(self, context: Context) -> BitSet:
        return context.topology.select(context.topology.full(), self.counts(context))

    def counts(self, context: Context) -> list[int]:
        return context.counts_at(self.density)


@final
@dataclass(frozen=True, slots=True)
class MagnitudeMasks(InitialMasks):
    """The largest magnitudes of the initial weights.

    Args:
        across_layers: Whether all layers compete; otherwise each keeps what the allocation says.
    """

    across_layers: bool = True

    def masks(self, context: Context) -> BitSet:
        topology = context.topology
        counts = context.target_total if self.across_layers else context.target_counts
        return topology.select(topology.full(), counts, self.scores(context))

    def scores(self, context: Context) -> Scores:
        return Scores(context.topology.weights())
