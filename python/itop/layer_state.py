"""A sparse layer's topology at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerState:
    """A layer's topology at the moment of asking; counts of weights."""

    name: str
    shape: tuple[int, ...]
    num_active: int
    num_explored: int
    num_reliable: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        return self.num_active / self.numel

    @property
    def sparsity(self) -> float:
        return 1.0 - self.density

    @property
    def exploration_rate(self) -> float:
        """R_s of the layer: the part of its weights that was ever active."""
        return self.num_explored / self.numel

    @property
    def reliable_rate(self) -> float:
        """R_r of the layer: the part that survived at least one pruning round."""
        return self.num_reliable / self.numel
