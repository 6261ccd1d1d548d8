"""Initial masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from itop.context import Context
from itop.topology import BitSet


class InitialMasks(ABC):
    """Which weights are active before the first step."""

    @abstractmethod
    def masks(self, context: Context) -> BitSet:
        """The initial active set; ``context.target_counts`` holds what the allocation asks of each layer."""


@final
@dataclass(frozen=True, slots=True)
class RandomMasks(InitialMasks):
    """Exactly as many weights as the allocation says, uniformly at random (Mocanu et al., 2018)."""

    def masks(self, context: Context) -> BitSet:
        return context.topology.select(context.topology.full(), context.target_counts)


@final
@dataclass(frozen=True, slots=True)
class DenseMasks(InitialMasks):
    """Every weight, whatever the allocation says: dense training, or the start of dense-to-sparse methods."""

    def masks(self, context: Context) -> BitSet:
        return context.topology.full()
