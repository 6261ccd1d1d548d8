"""The engine's saved state: its form, and the checks before it is believed.

Of each layer one byte a weight: bit 0 active, bit 1 explored, bit 2 reliable, in the layer's shape; of a truly sparse layer
the three sets, compressed (:mod:`itop.saved_codes`). A sharded layer gives a DTensor, so that
``torch.distributed.checkpoint`` cuts it anew for another number of ranks. The keys are the same whatever the method holds
and however the model is sharded: what the engine was made with and what the method remembers is one value, in bytes.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from itop.distributed.agreement import describe
from itop.layers import Layer
from itop.methods import Method
from itop.saved_codes import SETS
from itop.topology import Topology

STATE_VERSION = 3

_KEYS = frozenset({"version", "method", "seed", "steps", "num_updates", "total_steps", "layers", "method_state"})


@final
@dataclass(frozen=True, slots=True)
class MadeWith:
    """What an engine was made with, as far as a saved state has to fit it.

    Attributes:
        method: The method's name.
        options: Its options, in words.
        counts: Active weights of each layer that the sparsity and the allocation come to, by name.
        grown_state: How grown weights enter the optimiser, in words.
    """

    method: str
    options: dict[str, str]
    counts: dict[str, int]
    grown_state: str

    @classmethod
    def of(cls, method: Method, layers: Sequence[Layer], counts: Sequence[int], grown_state: object) -> MadeWith:
        return cls(
            method.name,
            {name: describe(value) for name, value in method.options().items()},
            {layer.name: int(count) for layer, count in zip(layers, counts, strict=True)},
            describe(grown_state),
        )

    @classmethod
    def from_saved(cls, saved: object) -> MadeWith:
        """Raises a ValueError if it is damaged."""
        if isinstance(saved, Mapping) and set(saved) >= set(cls.__slots__):
            made = cls(*(saved[name] for name in cls.__slots__))
            counts = made.counts.values() if isinstance(made.counts, dict) else [None]
            if all(isinstance(count, int) for count in counts) and isinstance(made.options, dict):
                return made
        raise ValueError("the engine state is damaged: it does not say what the engine was made with")

    def check_continues(self, saved: MadeWith, layers: Sequence[Layer]) -> None:
        """Raises a ValueError if an engine made with other things would go on with masks that are not its own."""
        there, here = sum(saved.counts.values()), sum(self.counts.values())
        numel = sum(layer.numel for layer in layers)
        if there != here:
            raise ValueError(
                f"the engine state comes to {there} active weights (sparsity {1 - there / numel:.6g}), this engine to {here} "
                f"(sparsity {1 - here / numel:.6g}); {_ADVICE}"
            )
        for name, count in self.counts.items():
            if saved.counts.get(name) != count:
                raise ValueError(
                    f"the engine state has another allocation: layer '{name}' comes to {saved.counts.get(name)} active weights "
                    f"there, to {count} here; {_ADVICE}"
                )
        pattern, own = saved.options.get("pattern"), self.options.get("pattern")
        if pattern is not None and own is not None and pattern != own:
            raise ValueError(f"the engine state has masks of pattern {pattern}, this engine of {own}; {_ADVICE}")

    def differences(self, saved: MadeWith) -> list[str]:
        """What differs and may: rules for the steps that come."""
        return [
            f"{name}={self.options[name]} instead of {saved.options[name]}"
            for name in self.options
            if name in saved.options and saved.options[name] != self.options[name]
        ] + (
            [f"grown_state={self.grown_state} instead of {saved.grown_state}"]
            if saved.grown_state != self.grown_state
            else []
        )


_ADVICE = 'make the engine with what it was saved with, or with method="fixed" to train on with the saved masks'


@final
@dataclass(frozen=True, slots=True)
class ReadState:
    """A saved state that fits.

    Attributes:
        codes: What ``topology.load_codes`` takes: of each layer the part that this process holds.
        method_state: What the method remembers.
        method_parameters: What it trains beside the weights.
        differences: In what the engine goes on otherwise than the one that was saved, in words.
    """

    codes: list[Any]
    method_state: dict[str, Any]
    method_parameters: dict[str, Tensor]
    differences: list[str]


def read_state(
    state: Mapping[str, Any], topology: Topology, method: Method, made_with: MadeWith, total_steps: int | None
) -> ReadState:
    """Reads a state for an engine. Changes nothing.

    Raises:
        ValueError: If the state is not an engine's, of another model, version, seed, method, sparsity or sharding, or damaged.
    """
    codes = _check_state(state, topology)
    if state["method"] != method.name and not method.continues_any_method:
        raise ValueError(
            f"the engine state was saved by method '{state['method']}', this engine has '{method.name}'; {_ADVICE}"
        )
    saved, method_state = _unpack_method_state(state, topology)
    if method.continues_any_method:
        if state["method"] != method.name:
            method_state = {}
        return ReadState(codes, method_state, {}, [])
    differences: list[str] = []
    if saved is not None:
        made_with.check_continues(saved, topology.layers)
        differences = made_with.differences(saved)
    if state["total_steps"] != total_steps:
        if total_steps is not None and state["steps"] > total_steps:
            raise ValueError(
                f"the engine state was saved at step {state['steps']} of {state['total_steps']}, this engine ends at total_steps "
                f"{total_steps}; make it with a total_steps that is not over yet"
            )
        differences.insert(0, f"total_steps={total_steps} instead of {state['total_steps']}")
    return ReadState(codes, method_state, dict(state.get("method_parameters", {})), differences)


def _check_state(state: object, topology: Topology) -> list[Any]:
    if not isinstance(state, Mapping) or not set(state) >= _KEYS:
        raise ValueError("this is not the state of a SparseEngine: expected the dictionary that state_dict() returned")
    version = state["version"]
    if version not in range(1, STATE_VERSION + 1):
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


def pack_method_state(state: Mapping[str, Any], made_with: MadeWith, topology: Topology) -> bytes:
    """What an engine was made with and its method remembers, in bytes.

    Tensors of the parts held here, one a layer, are saved whole (ranks gather them).
    """
    whole = _per_layer(dict(state), topology, topology.whole, lambda i: tuple(topology.local(i).shape))
    buffer = io.BytesIO()
    torch.save({"made_with": asdict(made_with), "remembers": whole}, buffer)
    return buffer.getvalue()


def _unpack_method_state(state: Mapping[str, Any], topology: Topology) -> tuple[MadeWith | None, dict[str, Any]]:
    """The inverse, for this process's parts; before version 3 only what the method remembers was saved.

    Raises:
        ValueError: If the bytes hold anything but numbers, strings, tensors, lists and dicts of them.
    """
    packed = state["method_state"]
    if isinstance(packed, Mapping):  # version 1
        return None, dict(packed)
    try:
        content = torch.load(io.BytesIO(packed), weights_only=True, map_location=topology.device)
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        raise ValueError("the engine state is damaged: what the method remembers cannot be read") from error
    made_with, remembers = None, content
    if state["version"] >= 3 and isinstance(content, dict):
        made_with, remembers = MadeWith.from_saved(content.get("made_with")), content.get("remembers")
    if not isinstance(remembers, dict):
        raise ValueError("the engine state is damaged: what the method remembers is not a dictionary")
    return made_with, dict(_per_layer(remembers, topology, topology.part, lambda i: topology.layers[i].shape))


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
