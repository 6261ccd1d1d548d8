"""Sums of counts over the ranks that hold the parts of a layer. Selection calls them between its rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from itop.distributed.shards import is_sharded, local_part, shard_start, sharded_mesh_dims

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Reduction: TypeAlias = Callable[[npt.NDArray[np.int64]], None]
"""Replaces counts by their sums over all processes that hold a part of the layers."""


@dataclass(slots=True)
class Traffic:
    """What went over the wire: all-reduces of counts, and the bytes of counts this process put into them."""

    num_reductions: int = 0
    num_bytes: int = 0


class ShardReduction:
    """Sums counts over the mesh dimensions that cut a layer; replicas of a part are not counted twice."""

    def __init__(self, groups: Sequence[dist.ProcessGroup], device: torch.device, traffic: Traffic) -> None:
        self._groups = tuple(groups)
        self._device = device
        self._traffic = traffic

    @classmethod
    def of(cls, parameter: DTensor, traffic: Traffic) -> ShardReduction:
        """The reduction over the parts of one parameter."""
        mesh = parameter.device_mesh
        groups = [mesh.get_group(mesh_dim) for mesh_dim in sharded_mesh_dims(parameter)]
        return cls(groups, torch.device(mesh.device_type), traffic)

    def __call__(self, counts: npt.NDArray[np.int64]) -> None:
        """Replaces ``counts`` by their sums, in place."""
        summed = torch.from_numpy(counts).to(self._device)
        for group in self._groups:
            dist.all_reduce(summed, group=group)
            self._traffic.num_reductions += 1
            self._traffic.num_bytes += counts.nbytes
        if self._device.type != "cpu":
            counts[...] = summed.cpu().numpy()


@dataclass(frozen=True, slots=True)
class ReductionGroup:
    """Layers cut over the same ranks, and the sum over these; None where this process holds the layers whole."""

    layers: tuple[int, ...]
    reduction: Reduction | None


class LayerReductions:
    """How the counts of each layer are summed.

    Layers may be cut differently: some by tensor parallelism, some by FSDP2, some not at all. Everything that is counted
    for each layer is summed group by group. What all layers are compared in is summed over all ranks, each part once.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        self.traffic = Traffic()
        self._parameters = tuple(parameters)
        self._names = tuple(names)
        self._owned: npt.NDArray[np.bool_] | None = None
        members: dict[tuple[int, ...], list[int]] = {}
        for i, parameter in enumerate(self._parameters):
            members.setdefault(_holders(parameter), []).append(i)
        self.groups: tuple[ReductionGroup, ...] = tuple(
            ReductionGroup(tuple(layers), self._reduction_of(layers[0]) if len(holders) > 1 else None)
            for holders, layers in members.items()
        )

    @classmethod
    def uniform(cls, num_layers: int, reduction: Reduction | None) -> LayerReductions:
        """One given reduction for all layers."""
        reductions = cls((), ())
        reductions.groups = (ReductionGroup(tuple(range(num_layers)), reduction),)
        return reductions

    def _reduction_of(self, layer: int) -> Reduction:
        parameter = self._parameters[layer]
        assert is_sharded(parameter)
        return ShardReduction.of(parameter, self.traffic)

    @property
    def is_uniform(self) -> bool:
        """Whether one reduction serves all layers."""
        return len(self.groups) == 1

    def sum(self, counts: npt.NDArray[np.int64]) -> None:
        """Replaces counts [num_layers, ...] by their sums over the parts of each layer, in place."""
        for group in self.groups:
            if group.reduction is not None:
                rows = np.ascontiguousarray(counts[list(group.layers)])
                group.reduction(rows)
                counts[list(group.layers)] = rows

    def owned(self) -> npt.NDArray[np.bool_]:
        """[num_layers]: whether this process counts its part in a sum over all ranks; of replicas only one does."""
        if self._owned is None:
            mine = [
                (shard_start(parameter, name), tuple(local_part(parameter).shape))
                for parameter, name in zip(self._parameters, self._names, strict=True)
            ]
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, mine)
            rank = dist.get_rank()
            self._owned = np.array(
                [all(everyone[lower][i] != part for lower in range(rank)) for i, part in enumerate(mine)],
                dtype=np.bool_,
            )
        return self._owned

    def over_all_ranks(self) -> ShardReduction:
        """Sums over every rank of the default group, for layers that are cut differently."""
        device = next(torch.device(p.device_mesh.device_type) for p in self._parameters if is_sharded(p))
        assert dist.group.WORLD is not None
        return ShardReduction([dist.group.WORLD], device, self.traffic)


def _holders(parameter: Tensor) -> tuple[int, ...]:
    """The ranks that hold the parts of the parameter beside this process's; empty for a plain tensor."""
    if not is_sharded(parameter):
        return ()
    mesh = parameter.device_mesh
    cut = sharded_mesh_dims(parameter)
    place = tuple(slice(None) if dim in cut else mesh.get_local_rank(dim) for dim in range(mesh.ndim))
    ranks = tuple(sorted(int(rank) for rank in mesh.mesh[place].reshape(-1)))
    return ranks if len(ranks) > 1 else ()
