"""The saved forms of one layer's topology, and the checks before they are believed.

A layer with a dense weight gives one byte a weight (:data:`ACTIVE`, :data:`EXPLORED`, :data:`RELIABLE`), a truly sparse
one three compressed sets. Either execution reads both: a run may go on in the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from itop.distributed.shards import has_layout_of, is_sharded, local_part
from itop.held_parts import HeldParts
from itop.layers import matrix_shape
from itop.nn.position_set import CompressedPositions, PositionSet

ACTIVE, EXPLORED, RELIABLE = 1, 2, 4
"""The bits of a weight's code in a saved state."""

SETS = (("active", ACTIVE), ("explored", EXPLORED), ("reliable", RELIABLE))

SavedSets: TypeAlias = dict[str, CompressedPositions]
"""``"active"``, ``"explored"``, ``"reliable"`` of a truly sparse layer."""


def read_codes(parts: HeldParts, layer: int, saved: object) -> Tensor:
    """The codes of the part of a layer that this process holds, from any saved form.

    Raises:
        ValueError: If it is of another model or sharding, or damaged.
    """
    name = parts.layers[layer].name
    if isinstance(saved, Mapping):
        codes = parts.part(layer, _codes_of_sets(name, parts.layers[layer].shape, saved))
    else:
        codes = _read_bytes(parts, layer, saved)
    unexplored = ((codes & (ACTIVE | RELIABLE)) != 0) & ((codes & EXPLORED) == 0)
    if bool((codes > (ACTIVE | EXPLORED | RELIABLE)).any()) or bool(unexplored.any()):
        _refuse_unexplored(name)
    return codes


def read_sets(name: str, shape: tuple[int, ...], saved: object) -> SavedSets:
    """The three sets of a truly sparse layer, from any saved form.

    Raises:
        ValueError: If they are of another model, or damaged.
    """
    if isinstance(saved, Tensor):
        if saved.dtype != torch.uint8 or tuple(saved.shape) != shape or is_sharded(saved):
            raise ValueError(
                f"the engine state belongs to another model: layer '{name}' has shape {list(saved.shape)} there, "
                f"{list(shape)} here"
            )
        sets = {}
        for key, bit in SETS:
            sets[key] = CompressedPositions(matrix_shape(shape))
            sets[key].insert(PositionSet.from_mask((saved & bit) != 0))
    else:
        sets = _parse_sets(name, shape, saved)
    explored = sets["explored"]
    if not all(explored.contains_all(sets[key].to_set()) for key in ("active", "reliable")):
        _refuse_unexplored(name)
    return sets


def active_of(codes: object) -> Tensor | None:
    """The active weights of the codes that :func:`read_codes` gave; None of :func:`read_sets`."""
    return (codes & ACTIVE) != 0 if isinstance(codes, Tensor) else None


def read_mask(name: str, shape: tuple[int, ...], saved: object) -> Tensor:
    """The active weights of a layer from any saved form: bool, in the layer's shape.

    Raises:
        ValueError: If it is of another model, or damaged.
    """
    if isinstance(saved, Tensor):
        if saved.dtype != torch.uint8 or tuple(saved.shape) != shape:
            raise ValueError(f"the engine state is damaged: layer '{name}' is not a tensor of bytes of its shape")
        return (saved & ACTIVE) != 0
    return _parse_sets(name, shape, saved)["active"].to_set().to_mask().view(shape)


def _refuse_unexplored(name: str) -> None:
    raise ValueError(
        f"the engine state is damaged: layer '{name}' has active or reliable weights that were never explored"
    )


def _parse_sets(name: str, shape: tuple[int, ...], saved: object) -> SavedSets:
    if not isinstance(saved, Mapping) or not isinstance(saved.get("shape"), (list, tuple)):
        raise ValueError(f"the engine state is damaged: layer '{name}' holds neither bytes nor sets")
    if tuple(saved["shape"]) != shape:
        raise ValueError(
            f"the engine state belongs to another model: layer '{name}' has shape {list(saved['shape'])} there, "
            f"{list(shape)} here"
        )
    sets: SavedSets = {}
    for key, _ in SETS:
        content = saved.get(key)
        if not isinstance(content, Tensor) or content.dtype != torch.uint8 or content.dim() != 1:
            raise ValueError(f"the engine state is damaged: the {key} set of layer '{name}' is not a vector of bytes")
        try:
            sets[key] = CompressedPositions.from_bytes(matrix_shape(shape), content)
        except ValueError as error:
            raise ValueError(f"the engine state is damaged: the {key} set of layer '{name}': {error}") from None
    return sets


def _codes_of_sets(name: str, shape: tuple[int, ...], saved: Mapping[str, object]) -> Tensor:
    sets = _parse_sets(name, shape, saved)
    codes = torch.zeros(shape, dtype=torch.uint8)
    for key, bit in SETS:
        codes |= sets[key].to_set().to_mask().view(shape) * bit
    return codes


def _read_bytes(parts: HeldParts, layer: int, saved: object) -> Tensor:
    name, shape, parameter = parts.layers[layer].name, parts.layers[layer].shape, parts.layers[layer].parameter
    if not isinstance(saved, Tensor) or saved.dtype != torch.uint8:
        raise ValueError(f"the engine state is damaged: layer '{name}' is not a tensor of bytes")
    if tuple(saved.shape) != shape:
        raise ValueError(
            f"the engine state belongs to another model: layer '{name}' has shape {list(saved.shape)} there, {list(shape)} here"
        )
    if not is_sharded(saved):
        return parts.part(layer, saved)
    if not has_layout_of(saved, parameter):
        raise ValueError(
            f"the engine state is of another sharding: layer '{name}' is placed as {tuple(map(str, saved.placements))} there; "
            "load it by torch.distributed.checkpoint, which cuts it anew, or save state_dict(full=True)"
        )
    return local_part(saved)
