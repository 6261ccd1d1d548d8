"""What a topology update did, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerUpdate:
    """What one topology update did to one layer; counts of weights."""

    name: str
    numel: int
    num_active: int
    num_explored: int
    num_reliable: int
    dropped: int
    grown: int
    regrown: int
    """Dropped and grown in the same update."""

    @property
    def churn(self) -> int:
        """``|M_t xor M_(t-1)|``: weights whose activity changed."""
        return self.dropped + self.grown - 2 * self.regrown


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """One topology update: which, when, what it did to each layer, and what it put on the wire.

    Attributes:
        num_reductions: All-reduces between the ranks that hold parts of layers; 0 where no layer is sharded.
        num_wire_bytes: The bytes of counts that this process put into them.
    """

    update: int
    step: int
    drop_fraction: float | None
    layers: tuple[LayerUpdate, ...]
    num_reductions: int = 0
    num_wire_bytes: int = 0

    def __getitem__(self, name: str) -> LayerUpdate:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(
            f"no sparse layer is called '{name}'; there are {', '.join(layer.name for layer in self.layers)}"
        )

    @property
    def dropped(self) -> int:
        return sum(layer.dropped for layer in self.layers)

    @property
    def grown(self) -> int:
        return sum(layer.grown for layer in self.layers)

    @property
    def churn(self) -> int:
        """Of all layers: weights whose activity changed."""
        return sum(layer.churn for layer in self.layers)

    @property
    def exploration_rate(self) -> float:
        """R_s after the update: weights that were ever active / sparsifiable weights."""
        return sum(layer.num_explored for layer in self.layers) / sum(layer.numel for layer in self.layers)

    @property
    def reliable_rate(self) -> float:
        """R_r after the update: weights that survived a pruning round / sparsifiable weights."""
        return sum(layer.num_reliable for layer in self.layers) / sum(layer.numel for layer in self.layers)
