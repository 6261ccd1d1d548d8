"""The engine's saved state: its form, and the checks before it is believed.

Of each layer one byte a weight: bit 0 active, bit 1 explored, bit 2 reliable, in the layer's shape; of a truly sparse layer
the three sets, compressed (:mod:`itop.saved_codes`). A sharded layer gives a DTensor, so that
``torch.distributed.checkpoint`` cuts it anew for another number of ranks. The keys are the same whatever the method holds
and however the model is sharded: what the method remembers is one value, in bytes.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itop.layers import Layer
from itop.saved_codes import SETS
from itop.topology import Topology

STATE_VERSION = 2

_KEYS = frozenset({"version", "method", "seed", "steps", "num_updates", "total_steps", "layers", "method_state"})


def check_state(state: object, topology: Topology) -> list[Any]:
    """What ``topology.load_codes`` takes: of each layer the part that this process holds.

    Raises:
        ValueError: If the state is not an engine's, of another model, version, seed or sharding, or damaged.
    """
    if not isinstance(state, Mapping) or not set(state) >= _KEYS:
        raise ValueError("this is not the state of a SparseEngine: expected the dictionary that state_dict() returned")
    version = state["version"]
    if version not in (1, STATE_VERSION):
        raise ValueError(f"the engine state has version {version}, this release reads versions 1 to {STATE_VERSION}")
    if state["seed"] != topology.seed:
        raise ValueError(f"the engine state was saved with seed {state['seed']}, this engine has seed {topology.seed}")
    for key in ("steps", "num_updates"):
        count = state[key]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**32:
            raise ValueError(f"the engine state is damaged: {key} must be a whole number, got {count!r}")
    saved = state["layers"]
    names = [layer.name for layer in topology.layers]
    if not isinstance(saved, Mapping) or set(saved) != set(names):
        different = set(names) ^ (set(saved) if isinstance(saved, Mapping) else set())
        raise ValueError(
            f"the engine state belongs to another model: layers {', '.join(sorted(map(str, different)))} are not in both"
        )
    read = _unpack if version == 1 else _as_saved
    return [topology.read_codes(i, read(topology.layers[i], saved[name])) for i, name in enumerate(names)]


def _as_saved(layer: Layer, saved: object) -> object:
    return saved


def _unpack(layer: Layer, saved: object) -> Tensor:
    """Version 1: the three sets as packed bytes, row-major, bit 0 first."""
    name, shape = layer.name, layer.shape
    if not isinstance(saved, Mapping) or list(saved.get("shape", ())) != list(shape):
        raise ValueError(
            f"the engine state belongs to another model: layer '{name}' does not have shape {list(shape)} there"
        )
    codes = torch.zeros(shape, dtype=torch.uint8)
    num_bytes = (math.prod(shape) + 7) // 8
    for key, bit in SETS:
        packed = saved.get(key)
        if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.numel() != num_bytes:
            raise ValueError(f"the engine state is damaged: the {key} bits of layer '{name}' are not {num_bytes} bytes")
        bits = np.unpackbits(packed.cpu().numpy(), count=math.prod(shape), bitorder="little")
        codes |= torch.from_numpy(bits).view(shape) * bit
    return codes


def pack_method_state(state: Mapping[str, Any], topology: Topology) -> bytes:
    """What a method remembers, in bytes. Tensors of the parts held here, one a layer, are saved whole (ranks gather them)."""
    buffer = io.BytesIO()
    torch.save(_per_layer(dict(state), topology, topology.whole, lambda i: tuple(topology.local(i).shape)), buffer)
    return buffer.getvalue()


def unpack_method_state(packed: object, topology: Topology) -> dict[str, Any]:
    """The inverse, for this process's parts.

    Raises:
        ValueError: If the bytes hold anything but numbers, strings, tensors, lists and dicts of them.
    """
    if isinstance(packed, Mapping):  # version 1
        return dict(packed)
    try:
        state = torch.load(io.BytesIO(packed), weights_only=True, map_location=topology.device)  # type: ignore[arg-type]
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        raise ValueError("the engine state is damaged: what the method remembers cannot be read") from error
    if not isinstance(state, dict):
        raise ValueError("the engine state is damaged: what the method remembers is not a dictionary")
    parts = _per_layer(state, topology, topology.part, lambda i: topology.layers[i].shape)
    return dict(parts)


def _per_layer(value: Any, topology: Topology, convert: Any, shape_of: Any) -> Any:
    """Converts every list of one tensor a layer, in the shapes that ``shape_of(layer)`` gives; only of sharded layers."""
    if isinstance(value, dict):
        return {key: _per_layer(entry, topology, convert, shape_of) for key, entry in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if _is_one_per_layer(value, topology, shape_of):
        return [convert(i, tensor) if topology.start(i) is not None else tensor for i, tensor in enumerate(value)]
    return [_per_layer(entry, topology, convert, shape_of) for entry in value]


def _is_one_per_layer(value: Sequence[Any], topology: Topology, shape_of: Any) -> bool:
    return len(value) == len(topology.layers) and all(
        isinstance(tensor, Tensor) and tuple(tensor.shape) == shape_of(i) for i, tensor in enumerate(value)
    )
