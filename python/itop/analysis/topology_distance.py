"""How differently two networks are wired, whatever the order of their neurons: NNSTD.

Two output units differ by the part of their incoming connections that only one of them has. Units are matched so that
the sum of differences is smallest; the matching then reorders the inputs of the next layer, and so on.

Reference:
    Liu et al., Topological Insights into Sparse Neural Networks, ECML PKDD 2020, section 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from itop.analysis.layer import check_same_layers
from itop.analysis.packed_mask import Words, count_bits, pack_rows

_BLOCK_WORDS = 1 << 20  # words of a block of pairwise intersections: 8 MiB, whatever the layer's size


@final
@dataclass(frozen=True, slots=True, eq=False)
class LayerDistance:
    """NNSTD of one layer.

    Attributes:
        distance: Mean over output units, 0 for the same wiring, 1 for a disjoint one.
        matching: int64 [outputs]; unit i of the first corresponds to unit ``matching[i]`` of the second.
        unit_distances: float64 [outputs], that of each pair.
    """

    distance: float
    matching: NDArray[np.int64]
    unit_distances: NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class NetworkDistance:
    """NNSTD of a network.

    Attributes:
        distance: Mean over the layers' distances.
        layers: Each layer's by name, in the order they were matched.
    """

    distance: float
    layers: Mapping[str, LayerDistance]


def connection_costs(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """``|A_i xor B_j| / |A_i or B_j|`` for every pair of output units; 0 where neither has a connection.

    Args:
        first: bool [outputs, ...]; all dimensions but the first are incoming connections.
        second: The same shape.

    Returns:
        float64 [outputs, outputs].
    """
    check_same_layers({"the layer": first}, {"the layer": second})
    a, b = pack_rows(first.flatten(1)), pack_rows(second.flatten(1))
    both = _intersections(a, b)
    either = _row_counts(a)[:, None] + _row_counts(b)[None, :] - both
    costs: NDArray[np.float64] = np.divide(either - both, either, out=np.zeros(both.shape), where=either > 0)
    return costs


def layer_topology_distance(first: Tensor, second: Tensor) -> LayerDistance:
    """NNSTD of two masks of one layer, whose inputs correspond in order.

    Args:
        first: bool [outputs, ...], linear or convolution, at least two dimensions.
        second: The same shape.
    """
    costs = connection_costs(first, second)
    rows, columns = linear_sum_assignment(costs)
    unit_distances = costs[rows, columns]
    mean = float(unit_distances.mean()) if len(unit_distances) else 0.0
    return LayerDistance(mean, np.asarray(columns, dtype=np.int64), unit_distances)


def topology_distance(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    sources: Mapping[str, str | None] | None = None,
) -> NetworkDistance:
    """NNSTD of two networks of one architecture.

    The first layer's inputs are data and keep their order. A linear layer after a convolution reads its flattened
    channels, channel by channel, as ``nn.Flatten`` gives them.

    Args:
        first: bool masks by layer name, in forward order.
        second: The same layers and shapes, in any order.
        sources: The layer whose units each layer reads, or None where the inputs keep their order, as on a residual
            stream. By default each layer reads the one before it.

    Raises:
        ValueError: If layers or shapes differ, or a layer cannot read the units of its source.
    """
    if not first:
        raise ValueError("first must hold at least one layer, got none")
    check_same_layers(first, second)
    names = list(first)
    chain: Mapping[str, str | None] = dict(zip(names, (None, *names), strict=False)) if sources is None else sources
    layers: dict[str, LayerDistance] = {}
    for name in names:
        source = chain.get(name)
        if source is not None and source not in layers:
            raise ValueError(f"sources must name an earlier layer for {name}, got {source}")
        moved = second[name] if source is None else _reorder_inputs(name, second[name], layers[source].matching)
        layers[name] = layer_topology_distance(first[name], moved)
    return NetworkDistance(float(np.mean([layer.distance for layer in layers.values()])), layers)


def sources_by_shape(masks: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Which layer each one reads, as far as shapes tell: the one before it, where that fits all along the network.

    Where some layer does not read whole units of the one before, as beside a shortcut, all inputs keep their order.

    Args:
        masks: By layer name, in forward order, at least two dimensions each.
    """
    names = list(masks)
    fits = all(
        masks[before].shape[0] > 0 and masks[name].shape[1] % masks[before].shape[0] == 0
        for before, name in itertools.pairwise(names)
    )
    return dict(zip(names, [None, *names], strict=False)) if fits else dict.fromkeys(names)


def topology_distance_matrix(
    topologies: Sequence[Mapping[str, Tensor]],
    sources: Mapping[str, str | None] | None = None,
) -> NDArray[np.float64]:
    """NNSTD between all pairs, such as the snapshots along a run: [topologies, topologies], symmetric."""
    distances = np.zeros((len(topologies), len(topologies)))
    for i, first in enumerate(topologies):
        for j in range(i + 1, len(topologies)):
            distances[i, j] = distances[j, i] = topology_distance(first, topologies[j], sources).distance
    return distances


def _reorder_inputs(name: str, mask: Tensor, matching: NDArray[np.int64]) -> Tensor:
    """The mask with its inputs in the order in which the source's units were matched."""
    units = len(matching)
    if units == 0 or mask.shape[1] % units:
        raise ValueError(
            f"{name} must read whole units of its source, got {mask.shape[1]} inputs for {units} units; "
            "name its source, or None, in sources"
        )
    order = torch.from_numpy(matching).to(mask.device)
    by_unit = mask.reshape(mask.shape[0], units, -1)
    return by_unit[:, order].reshape(mask.shape)


def _intersections(a: Words, b: Words) -> NDArray[np.int64]:
    """``|A_i and B_j|`` for every pair of rows, in blocks of bounded memory."""
    counts = np.zeros((len(a), len(b)), dtype=np.int64)
    rows = max(1, _BLOCK_WORDS // max(1, math.prod(b.shape)))
    columns = max(1, _BLOCK_WORDS // max(1, a.shape[1]))
    for i in range(0, len(a), rows):
        for j in range(0, len(b), columns):
            common = a[i : i + rows, None, :] & b[None, j : j + columns, :]
            counts[i : i + rows, j : j + columns] = count_bits(common).sum(axis=-1, dtype=np.int64)
    return counts


def _row_counts(words: Words) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = count_bits(words).sum(axis=-1, dtype=np.int64)
    return counts
