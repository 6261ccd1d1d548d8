"""How many weights each layer grows, given what each dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from itop.context import Context


class Redistribution(ABC):
    """Moves connections between layers; the total is kept."""

    @abstractmethod
    def grow_counts(self, context: Context, dropped: Sequence[int], room: Sequence[int]) -> list[int]:
        """Weights to grow in each layer.

        Args:
            dropped: Weights each layer drops in this update.
            room: Sites each layer could grow at most.
        """


@final
@dataclass(frozen=True, slots=True)
class SameLayer(Redistribution):
    """Each layer grows what it dropped: every layer's density is fixed."""

    def grow_counts(self, context: Context, dropped: Sequence[int], room: Sequence[int]) -> list[int]:
        return list(dropped)
