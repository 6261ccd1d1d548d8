"""The tensors of an optimiser that move with a weight: everything of its shape, whatever its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from itop.distributed.shards import has_layout_of, is_sharded, local_part
from itop.layers import Layer, has_same_memory_order
from itop.optim import MaskedOptimizer
from itop.optimizer_group import OptimizerGroup

if TYPE_CHECKING:
    from itop.selection import BitSet
    from itop.topology import Topology

_ZERO_STAYS_ZERO: frozenset[type[Optimizer]] = frozenset({SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta})
"""Optimisers that leave a weight at zero whose gradient, value and state are zero, so that masking gradients is enough.
Exact types: a subclass may do anything. All others are masked after their step."""

_TAKES_ROOTS = _ZERO_STAYS_ZERO - {SGD}
"""Those of them that take the square root of a moment of every weight."""


class OptimizerState:
    """Finds and masks the state that an optimiser keeps for the sparse layers."""

    def __init__(self, optimizer: Optimizer | OptimizerGroup, layers: Iterable[Layer]) -> None:
        self.optimizer = optimizer
        self.layers = tuple(layers)
        self._follow_types()
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for layer in self.layers:
            if id(layer.parameter) not in known and is_sharded(layer.parameter):
                raise ValueError(
                    f"the sharded parameter '{layer.name}' is not in the optimiser; make the optimiser after fully_shard and "
                    "parallelize_module, which replace the model's parameters, or exclude the layer"
                )
            if id(layer.parameter) not in known:
                raise ValueError(
                    f"parameter '{layer.name}' is not in the optimiser; make the optimiser over the model's parameters, or "
                    "exclude the layer"
                )

    def _follow_types(self) -> None:
        self._dtype = self.layers[0].parameter.dtype
        self._smallest_epsilon = max(torch.finfo(layer.parameter.dtype).tiny for layer in self.layers)

    @property
    def zero_stays_zero(self) -> bool:
        """Whether the optimiser leaves what is zero (gradient, value, state) at zero.

        Not where it would divide zero by zero: with an ``eps`` of zero, or one that is zero in float16.
        """
        if type(self.optimizer) not in _ZERO_STAYS_ZERO and not isinstance(self.optimizer, MaskedOptimizer):
            return False
        if self.layers[0].parameter.dtype is not self._dtype:  # model.half() and the like change all weights at once
            self._follow_types()
        return all(group.get("eps", 1.0) >= self._smallest_epsilon for group in self.optimizer.param_groups)

    @property
    def is_slowed_by_zeros(self) -> bool:
        """Whether masked gradients would cost more than they save: the optimiser's step is masked afterwards then.

        On the CPU, torch takes square roots by MKL, whose vectors with a zero among them take six times as long as others.
        Fused steps do not.
        """
        weight = self.layers[0].parameter
        return (
            type(self.optimizer) in _TAKES_ROOTS
            and weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.float64)
            and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
            and not any(group.get("fused") for group in self.optimizer.param_groups)
        )

    @property
    def evaluates_repeatedly(self) -> bool:
        """Whether the optimiser moves the weights and calls the closure again within one step."""
        return isinstance(self.optimizer, LBFGS)

    def states(self, layer: Layer) -> Iterator[Tensor]:
        """The optimiser's floating-point tensors of a weight's shape, and a weight's part of flat vectors over all.

        Of a sharded weight the parts held here.
        """
        yield from self._states_among(self._states(), layer)

    def _states_among(self, states: Iterable[Mapping[Any, Any]], layer: Layer) -> Iterator[Tensor]:
        if layer.is_compressed:
            return  # no place of it is inactive: what it holds moves with its values
        for of_optimizer in states:
            state = of_optimizer.get(layer.parameter) or {}
            if is_sharded(layer.parameter):
                yield from self._sharded_states(state, layer)
            else:
                yield from _tensors_of_shape(state.values(), layer.parameter.shape)
        if isinstance(self.optimizer, LBFGS) and not is_sharded(layer.parameter):
            yield from self._parts_of_flat_vectors(layer.parameter)

    def _states(self) -> list[Mapping[Any, Any]]:
        """Of the optimiser, and of those it wraps."""
        states: dict[int, Mapping[Any, Any]] = {id(self.optimizer.state): self.optimizer.state}
        for wrapped in wrapped_optimizers(self.optimizer):
            states[id(wrapped.state)] = wrapped.state
        return list(states.values())

    def _sharded_states(self, state: dict[str, object], layer: Layer) -> Iterator[Tensor]:
        for tensor in _tensors_of_shape(state.values(), layer.parameter.shape, local_part(layer.parameter).shape):
            if is_sharded(tensor) and not has_layout_of(tensor, layer.parameter):
                raise ValueError(
                    f"the optimiser's state of layer '{layer.name}' is placed as {tuple(map(str, tensor.placements))}, its "
                    "weight is not; make the state like the weight"
                )
            yield local_part(tensor)

    def _parts_of_flat_vectors(self, parameter: Tensor) -> Iterator[Tensor]:
        """LBFGS keeps vectors over all parameters, one behind the other, in the state of the first."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        place = next(i for i, p in enumerate(parameters) if p is parameter)
        start = sum(p.numel() for p in parameters[:place])
        total = torch.Size([sum(p.numel() for p in parameters)])
        for vector in _tensors_of_shape(self.optimizer.state.get(parameters[0], {}).values(), total):
            yield vector[start : start + parameter.numel()].view(parameter.shape)

    def tensors_to_mask(self, topology: Topology) -> TensorsToMask:
        """Of each layer its weights and all state of theirs."""
        tensors = TensorsToMask([], {})
        states = self._states()
        for i, layer in enumerate(self.layers):
            weight = topology.local(i)
            alike = [weight]
            for state in self._states_among(states, layer):
                if _same_layout(state, weight):
                    alike.append(state)
                else:
                    tensors.unusual.setdefault(i, []).append(state)
            tensors.alike.append(alike)
        return tensors

    def signature(self) -> tuple[int, int]:
        """Changes when the optimiser makes state: of how many parameters it has some, and how much in all."""
        states = self._states()
        return sum(map(len, states)), sum([sum(map(len, state.values())) for state in states])


@dataclass(frozen=True, slots=True)
class TensorsToMask:
    """What is zero where a weight is inactive.

    Attributes:
        alike: Of each layer its weights, and the state laid out in memory as they are.
        unusual: By layer, state that lies elsewhere or in another memory order.
    """

    alike: list[list[Tensor]]
    unusual: dict[int, list[Tensor]]

    def mask_unusual(self, topology: Topology, restarted: BitSet | None = None) -> None:
        """Masks the unusual state with torch's own operations.

        Args:
            topology: Whose inactive weights have no state.
            restarted: Active weights whose state starts at zero too.
        """
        for i, states in self.unusual.items():
            without_state = ~topology.active.to_tensor(i)
            if restarted is not None:
                without_state |= restarted.to_tensor(i)
            for state in states:
                state.masked_fill_(without_state.to(state.device), 0)


def wrapped_optimizers(optimizer: Optimizer | OptimizerGroup) -> Iterator[Optimizer]:
    """Those that an optimiser, or a member of a group, holds and steps itself: Lookahead, ZeroRedundancyOptimizer."""
    return _wrapped(optimizer, set())


def _wrapped(optimizer: Optimizer | OptimizerGroup, seen: set[int]) -> Iterator[Optimizer]:
    seen.add(id(optimizer))
    members = optimizer.members if isinstance(optimizer, OptimizerGroup) else vars(optimizer).values()
    for value in members:
        if isinstance(value, Optimizer) and id(value) not in seen:
            if not isinstance(optimizer, OptimizerGroup):  # whose own view shows the states of its members
                yield value
            yield from _wrapped(value, seen)


def _same_layout(state: Tensor, weight: Tensor) -> bool:
    return state.device == weight.device and has_same_memory_order(state, weight)


def _tensors_of_shape(values: Iterable[object], *shapes: torch.Size) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value.shape in shapes and value.is_floating_point():
                yield value.detach()
        elif isinstance(value, dict):
            yield from _tensors_of_shape(value.values(), *shapes)
        elif isinstance(value, (list, tuple)):
            yield from _tensors_of_shape(value, *shapes)
