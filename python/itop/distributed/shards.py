"""The part of a DTensor that this process holds: which values, and where they lie in the whole tensor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor: this process may hold a part of it only."""
    module = sys.modules.get("torch.distributed.tensor")  # nobody made one where nobody imported it
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def local_part(tensor: Tensor) -> Tensor:
    """The values this process holds, detached: a plain tensor is its own part."""
    if is_sharded(tensor):
        with torch.no_grad():
            tensor = tensor.to_local()
    return tensor.detach()


def has_layout_of(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether two tensors are cut into the same parts, so that local parts correspond."""
    if is_sharded(parameter) != is_sharded(tensor):
        return False
    if not is_sharded(parameter) or not is_sharded(tensor):
        return True
    return parameter.device_mesh == tensor.device_mesh and parameter.placements == tensor.placements


def like_parameter(local: Tensor, parameter: Tensor) -> Tensor:
    """A local part as a tensor of the parameter's whole shape: a DTensor where the parameter is one."""
    if not is_sharded(parameter):
        return local
    from torch.distributed.tensor import DTensor

    stride = [1] * parameter.dim()
    for dim in range(parameter.dim() - 2, -1, -1):
        stride[dim] = stride[dim + 1] * max(1, parameter.size(dim + 1))
    return DTensor.from_local(
        local.contiguous(),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=tuple(stride),
    )


def describe_layout(tensor: Tensor) -> str:
    """How a tensor is cut, in words: the same on every rank that cuts it alike."""
    if not is_sharded(tensor):
        return "whole"
    return f"{'/'.join(map(str, tensor.placements))} over {'x'.join(map(str, tensor.device_mesh.mesh.shape))} ranks"


def in_layout_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor cut into the same parts as the parameter, by communication where it is not."""
    if has_layout_of(tensor, parameter):
        return tensor
    if is_sharded(tensor) and is_sharded(parameter):
        return tensor.redistribute(parameter.device_mesh, parameter.placements)
    raise ValueError(
        "a gradient or state of a sharded weight must be a DTensor as the weight is, and of a plain weight a plain tensor"
    )


def reshard(model: nn.Module) -> None:
    """Puts the sharded parameters back in place where a forward pass without backward left FSDP2's whole ones."""
    for module in model.modules():
        put_back = getattr(module, "reshard", None)
        if callable(put_back) and hasattr(module, "unshard"):
            put_back()


def shard_start(tensor: Tensor, name: str) -> tuple[int, ...] | None:
    """Where this process's part begins in each dimension of the whole tensor; None for a plain tensor.

    Args:
        tensor: A parameter.
        name: For messages.

    Raises:
        ValueError: If the part is not one block of the whole, or the tensor holds sums that are not made yet.
    """
    if not is_sharded(tensor):
        return None
    rows = [list(range(size)) for size in tensor.shape]
    for mesh_dim in _order_of_cuts(tensor.placements):
        placement = tensor.placements[mesh_dim]
        if placement.is_replicate():
            continue
        dim = _cut_dim(placement)
        if dim is None:
            raise ValueError(
                f"layer '{name}' is placed as {tuple(map(str, tensor.placements))}; expected Shard and Replicate only"
            )
        rows[dim] = _chunk(rows[dim], tensor.device_mesh.size(mesh_dim), tensor.device_mesh.get_local_rank(mesh_dim))
    local = tuple(local_part(tensor).shape)
    start: list[int] = []
    for size, of_dim in zip(tensor.shape, rows, strict=True):
        begin = of_dim[0] if of_dim else size
        if of_dim != list(range(begin, begin + len(of_dim))):
            raise ValueError(
                f"rank {torch.distributed.get_rank()} holds scattered pieces of layer '{name}', not one block"
            )
        start.append(begin)
    if local != tuple(len(of_dim) for of_dim in rows):
        raise ValueError(
            f"rank {torch.distributed.get_rank()} holds a part of shape {local} of layer '{name}', but its placement "
            f"{tuple(map(str, tensor.placements))} says {tuple(len(of_dim) for of_dim in rows)}"
        )
    return tuple(start)


def sharded_mesh_dims(tensor: DTensor) -> tuple[int, ...]:
    """The mesh dimensions that cut a tensor into parts: those over which counts are summed. Replicas are not."""
    return tuple(
        mesh_dim
        for mesh_dim, placement in enumerate(tensor.placements)
        if _cut_dim(placement) is not None and tensor.device_mesh.size(mesh_dim) > 1
    )


def _order_of_cuts(placements: Sequence[Any]) -> list[int]:
    """Left to right, but what FSDP2 cut after tensor parallelism (a strided shard, left of it in the mesh) comes last."""
    strided = [dim for dim, placement in enumerate(placements) if _is_strided(placement)]
    return [dim for dim in range(len(placements)) if dim not in strided] + strided[::-1]


def _is_strided(placement: object) -> bool:
    return type(placement).__name__ == "_StridedShard"  # private in torch, a subclass of Shard in some releases only


def _cut_dim(placement: Any) -> int | None:
    return int(placement.dim) if placement.is_shard() or _is_strided(placement) else None


def _chunk(rows: list[int], num_chunks: int, index: int) -> list[int]:
    """The rows of ``torch.chunk``: as even as whole numbers allow, the last chunks short or empty."""
    size = -(-len(rows) // num_chunks)
    return rows[index * size : (index + 1) * size]
