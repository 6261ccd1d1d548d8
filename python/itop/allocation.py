"""How many weights of each layer are active. Counts are exact: their sum is the rounded target, always."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

from itop import _core


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What an allocation may know of a layer: its name and shape ``[out, in / groups, *kernel]``."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Allocation(ABC):
    """Distributes a number of active weights over layers."""

    @abstractmethod
    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        """One non-negative number a layer; only ratios matter, infinity makes a layer dense."""

    def counts(self, layers: Sequence[LayerShape], sparsity: float) -> list[int]:
        """Active weights of each layer; their sum is the nearest whole number to ``(1 - sparsity)`` of all.

        Raises:
            ValueError: If the allocation cannot be met at this sparsity.
        """
        numel = [layer.numel for layer in layers]
        return _core.allocate(numel, self.relative_densities(layers), target_count(sum(numel), sparsity))


def target_count(numel: int, sparsity: float) -> int:
    """Active weights of ``numel`` at a sparsity: the nearest whole number, halves away from zero.

    Raises:
        ValueError: If sparsity is not in [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}")
    return numel - math.ceil(sparsity * numel - 0.5)


@final
@dataclass(frozen=True, slots=True)
class Uniform(Allocation):
    """The same density everywhere; on request the first layer stays dense (Evci et al., ICML 2020, section 3)."""

    first_layer_dense: bool = False

    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        densities = [1.0] * len(layers)
        if self.first_layer_dense and densities:
            densities[0] = math.inf
        return densities


@final
@dataclass(frozen=True, slots=True)
class ER(Allocation):
    """Erdos-Renyi: density in proportion to ``(n_in + n_out) / (n_in * n_out)`` (Mocanu et al., 2018).

    Kernels do not enter: a convolution counts by its channels.
    """

    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        return [sum(layer.shape[:2]) / math.prod(layer.shape[:2]) for layer in layers]


@final
@dataclass(frozen=True, slots=True)
class ERK(Allocation):
    """Erdos-Renyi kernel: density in proportion to ``(sum(shape) / prod(shape)) ** power`` (Evci et al., ICML 2020).

    Layers whose density would exceed 1 are dense; the others share what is left.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.power >= 0.0:
            raise ValueError(f"power must not be negative, got {self.power!r}")

    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        return [(sum(layer.shape) / math.prod(layer.shape)) ** self.power for layer in layers]


@final
@dataclass(frozen=True, slots=True)
class LastLayerDense(Allocation):
    """Another allocation with the output layer dense, which the others pay for (Mocanu et al., 2018)."""

    allocation: Allocation = field(default_factory=ER)

    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        densities = list(self.allocation.relative_densities(layers))
        if densities:
            densities[-1] = math.inf
        return densities


@final
@dataclass(frozen=True, slots=True)
class PerLayer(Allocation):
    """The sparsity of each named layer; layers that are not named share what is left, all at one density."""

    sparsities: Mapping[str, float] = field(default_factory=dict)

    def relative_densities(self, layers: Sequence[LayerShape]) -> list[float]:
        return [1.0 - self.sparsities.get(layer.name, 0.0) for layer in layers]

    def counts(self, layers: Sequence[LayerShape], sparsity: float) -> list[int]:
        names = [layer.name for layer in layers]
        for name in self.sparsities:
            if name not in names:
                raise ValueError(
                    f"the allocation names layer '{name}', which the model does not have; its layers are {', '.join(names)}"
                )
        for name, value in self.sparsities.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
                raise ValueError(f"the sparsity of layer '{name}' must be in [0, 1), got {value!r}")
        fixed = {
            layer.name: target_count(layer.numel, self.sparsities[layer.name])
            for layer in layers
            if layer.name in self.sparsities
        }
        total = target_count(sum(layer.numel for layer in layers), sparsity)
        others = [layer for layer in layers if layer.name not in fixed]
        left = total - sum(fixed.values())
        if not others:
            # Rounding layer by layer may differ from rounding the sum by half a weight a layer.
            if abs(left) > (len(layers) + 1) / 2:
                raise ValueError(
                    f"the allocation cannot be met: its layers hold {sum(fixed.values())} active weights, "
                    f"a sparsity of {sparsity} asks for {total}"
                )
            return [fixed[name] for name in names]
        room = sum(layer.numel for layer in others)
        if not 0 <= left <= room:
            raise ValueError(
                f"the allocation cannot be met: at sparsity {sparsity} the layers it does not name would hold {left} "
                f"active weights, they have {room}"
            )
        shared = dict(
            zip(
                (layer.name for layer in others),
                _core.allocate([layer.numel for layer in others], [1.0] * len(others), left),
                strict=True,
            )
        )
        return [fixed.get(name, shared.get(name, 0)) for name in names]


ALLOCATIONS: Mapping[str, Allocation] = {"erk": ERK(), "er": ER(), "uniform": Uniform()}

AllocationLike: TypeAlias = str | Allocation | Mapping[str, float]


def as_allocation(allocation: AllocationLike) -> Allocation:
    """An allocation from its name, itself, or a mapping from layer names to sparsities.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(allocation, Allocation):
        return allocation
    if isinstance(allocation, Mapping):
        return PerLayer(dict(allocation))
    if isinstance(allocation, str) and allocation in ALLOCATIONS:
        return ALLOCATIONS[allocation]
    raise ValueError(
        f"allocation must be one of {', '.join(ALLOCATIONS)}, an Allocation or a mapping, got {allocation!r}"
    )
