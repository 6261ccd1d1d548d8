"""The little that analysis needs to know of a layer, and where to read it from an engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """One sparsifiable weight tensor at a density.

    Args:
        name: Name of the parameter, such as ``fc1.weight``.
        shape: Its shape, outputs first; at least one entry, none below 1.
        density: Active over all weights, in [0, 1].

    Raises:
        ValueError: If shape or density is outside its range.
    """

    name: str
    shape: tuple[int, ...]
    density: float

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape of {self.name} must hold positive sizes, got {self.shape}")
        if not 0.0 <= self.density <= 1.0:
            raise ValueError(f"density of {self.name} must be in [0, 1], got {self.density}")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def num_active(self) -> int:
        """The whole number of active weights nearest to the density."""
        return round(self.density * self.numel)


class LayerView(Protocol):
    """What ``engine.layers`` tells of a layer and analysis reads."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def num_active(self) -> int: ...


class Engine(Protocol):
    """The public names of ``SparseEngine`` that analysis reads."""

    @property
    def layers(self) -> Any: ...
    def mask(self, name: str, /) -> Tensor: ...


def layers_of(engine: Engine) -> tuple[Layer, ...]:
    """The engine's layers at their present densities, in its order."""
    return tuple(
        Layer(view.name, tuple(view.shape), view.num_active / math.prod(view.shape)) for view in _layer_views(engine)
    )


def masks_of(engine: Engine) -> dict[str, Tensor]:
    """Copies of the engine's masks by layer name, bool, each on its layer's device."""
    return {view.name: engine.mask(view.name) for view in _layer_views(engine)}


def network_density(layers: Sequence[Layer]) -> float:
    """Active over all weights of the layers together."""
    check_layers(layers)
    return sum(layer.density * layer.numel for layer in layers) / sum(layer.numel for layer in layers)


def check_layers(layers: Sequence[Layer]) -> None:
    """Raises ValueError unless there is a layer and no name occurs twice."""
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    names = [layer.name for layer in layers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"layers must have different names, got {repeated[0]} more than once")


def check_same_layers(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless both hold tensors of the same names and shapes, in whatever order."""
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(f"both sides must name the same tensors, got {odd[0]} on one of them only")
    for name, mask in first.items():
        if mask.shape != second[name].shape:
            raise ValueError(
                f"{name} must have one shape on both sides, got {tuple(mask.shape)} and {tuple(second[name].shape)}"
            )


def _layer_views(engine: Engine) -> Iterable[LayerView]:
    layers = engine.layers
    views: Iterable[LayerView] = layers.values() if isinstance(layers, Mapping) else layers
    return views
