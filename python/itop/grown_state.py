"""How the optimiser treats weights that were just grown.

A grown weight starts at zero with zero state, but Adam divides its moments by the bias correction of the *parameter's*
step count: after many steps that is 1, so the first step of a grown weight is ``(1 - beta1) / sqrt(1 - beta2)`` times the
learning rate (3.16 with the usual betas), and the next ones are larger still (6.5 times at the tenth), until its second
moment has filled up after thousands of steps. The values here cure it; the optimiser stays the user's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import LBFGS, Adam, AdamW, Optimizer

from itop.distributed.shards import is_sharded, like_parameter, local_part
from itop.ranges import require_count
from itop.selection import BitSet
from itop.topology import Topology


class GrownState(ABC):
    """What happens to a grown weight in its first steps. A value; the ages of weights are the engine's."""

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Steps after which a weight is treated like all others; 0: from the start."""

    def check(self, optimizer: Optimizer) -> None:
        """Raises ValueError if it does not fit the optimiser."""

    def before_step(self, young: YoungWeights, layer: int, optimizer: Optimizer) -> None:
        """Gradients are there; ``young.ages[layer]`` counts the step that comes."""

    def after_step(self, young: YoungWeights, layer: int) -> None:
        """The optimiser has stepped."""


@final
@dataclass(frozen=True, slots=True)
class ZeroState(GrownState):
    """Zero state and the optimiser's own count of steps, as every method was published."""

    @property
    def horizon(self) -> int:
        return 0


@final
@dataclass(frozen=True, slots=True)
class OwnStepCount(GrownState):
    """Adam and AdamW correct the bias of a grown weight's moments by its own number of steps.

    Before each step the moments of young weights are set so that the optimiser's update, with its own correction, gives
    exactly the moments that a weight of that age has: ``m_hat += (g - m_hat) (1 - beta1) / (1 - beta1^age)``.

    Attributes:
        horizon: Steps until a weight counts as old. With beta2 = 0.999 the correction is within 5 % of 1 after 2400.
    """

    horizon: int = 2400

    def __post_init__(self) -> None:
        require_count("horizon", self.horizon)

    def check(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, (Adam, AdamW)):
            raise ValueError(
                f"grown_state=OwnStepCount() needs an Adam or AdamW, whose bias correction it mends, got "
                f"{type(optimizer).__name__}; WarmUp works with any optimiser"
            )

    def before_step(self, young: YoungWeights, layer: int, optimizer: Optimizer) -> None:
        parameter = young.topology.layers[layer].parameter
        state = optimizer.state.get(parameter) or {}
        gradient = young.topology.local_gradient(layer)
        if gradient is None or "exp_avg" not in state:
            return
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        places, ages = young.places[layer], young.ages[layer]
        weight = young.topology.local(layer)
        decayed = _at(young.topology.in_storage_order(layer, gradient), places).float()
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            decayed = decayed / scale
        if group.get("maximize", False):
            decayed = -decayed
        if group.get("weight_decay", 0.0) and not _is_decoupled(group, optimizer):
            decayed = decayed + group["weight_decay"] * _at(weight, places)
        steps_before = float(state["step"])
        for key, beta, value in zip(
            ("exp_avg", "exp_avg_sq"), map(float, group["betas"]), (decayed, decayed.square()), strict=True
        ):
            if beta == 0.0:
                continue
            stored = local_part(state[key])
            unbiased = _at(stored, places).float() / max(1.0 - beta**steps_before, 1.0 - beta)
            unbiased += (value - unbiased) * ((1.0 - beta) / (1.0 - beta**ages))
            wanted = unbiased * (1.0 - beta ** (steps_before + 1.0))
            _put(stored, places, (wanted - (1.0 - beta) * value) / beta)


@final
@dataclass(frozen=True, slots=True)
class WarmUp(GrownState):
    """A grown weight takes ``age / steps`` of the optimiser's update while it is younger than that; any optimiser.

    Attributes:
        steps: Of the warm-up, at least 1.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        require_count("steps", self.steps)

    @property
    def horizon(self) -> int:
        return self.steps

    def check(self, optimizer: Optimizer) -> None:
        if isinstance(optimizer, LBFGS):
            raise ValueError("grown_state=WarmUp() needs an optimiser that takes one step at a time, got LBFGS")

    def before_step(self, young: YoungWeights, layer: int, optimizer: Optimizer) -> None:
        young.values_before[layer] = _at(young.topology.local(layer), young.places[layer]).clone()

    def after_step(self, young: YoungWeights, layer: int) -> None:
        weight, places = young.topology.local(layer), young.places[layer]
        before = young.values_before.pop(layer, None)
        if before is not None:
            share = (young.ages[layer] / self.steps).clamp(max=1.0).to(weight.dtype)
            _put(weight, places, before + (_at(weight, places) - before) * share)


class YoungWeights:
    """Where the weights are that were grown a short while ago, and how many optimiser steps each has taken.

    Attributes:
        places: Of each layer int64 positions in the memory of the part held here.
        ages: Of each layer as many int32 counts of steps.
        values_before: Their values before the present step, by layer, where the rule looks at them.
    """

    def __init__(self, rule: GrownState, topology: Topology) -> None:
        self.rule = rule
        self.topology = topology
        device = topology.device
        self.places = [torch.empty(0, dtype=torch.int64, device=device) for _ in topology.layers]
        self.ages = [torch.empty(0, dtype=torch.int32, device=device) for _ in topology.layers]
        self.values_before: dict[int, Tensor] = {}

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """The optimiser is about to step: everybody grows older by one."""
        for layer in self._layers():
            self.ages[layer] += 1
            self.rule.before_step(self, layer, optimizer)

    @torch.no_grad()
    def after_step(self) -> None:
        """The optimiser has stepped; weights that are old now are forgotten."""
        for layer in self._layers():
            self.rule.after_step(self, layer)
            old = self.ages[layer] >= self.rule.horizon
            if bool(old.any()):
                self._keep(layer, ~old)

    def add(self, grown: BitSet) -> None:
        """Weights that an update grew: they are young from now on, those that it dropped are gone."""
        for layer in range(len(self.topology.layers)):
            active = _flat(self.topology.active.to_tensor(layer))
            new = _flat(grown.to_tensor(layer)) & active
            self._keep(layer, (active & ~new)[self.places[layer]])
            born = new.nonzero().view(-1)
            self.places[layer] = torch.cat([self.places[layer], born])
            self.ages[layer] = torch.cat([self.ages[layer], torch.zeros_like(born, dtype=torch.int32)])

    def state_dict(self, full: bool) -> dict[str, Tensor]:
        """By layer int32, cut as the weights are unless ``full``: 0 for old weights, steps since growth + 1 for young ones."""
        state: dict[str, Tensor] = {}
        for i, layer in enumerate(self.topology.layers):
            ages = torch.zeros_like(self.topology.local(i), dtype=torch.int32)
            _flat(ages)[self.places[i]] = self.ages[i] + 1
            tensor = like_parameter(ages, layer.parameter)
            state[layer.name] = tensor.full_tensor() if full and is_sharded(tensor) else tensor
        return state

    def check(self, state: object) -> None:
        """Raises a ValueError if :meth:`load_state_dict` cannot read a state."""
        for layer in self.topology.layers:
            saved = state.get(layer.name) if isinstance(state, Mapping) else None
            if not isinstance(saved, Tensor) or tuple(saved.shape) != layer.shape:
                raise ValueError(
                    f"the engine state is damaged: it holds no age for each weight of layer '{layer.name}'"
                )

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse, from a state that is cut alike or whole."""
        for i, layer in enumerate(self.topology.layers):
            saved = state[layer.name]
            part = local_part(saved) if is_sharded(saved) else self.topology.part(i, saved)
            ages = _flat(self.topology.in_storage_order(i, part.to(self.topology.device, torch.int32)))
            self.places[i] = ages.nonzero().view(-1)
            self.ages[i] = ages[self.places[i]] - 1

    def _layers(self) -> list[int]:
        return [layer for layer, places in enumerate(self.places) if places.numel() > 0]

    def _keep(self, layer: int, which: Tensor) -> None:
        self.places[layer], self.ages[layer] = self.places[layer][which], self.ages[layer][which]


def _is_decoupled(group: dict[str, Any], optimizer: Optimizer) -> bool:
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, AdamW)))


def _flat(tensor: Tensor) -> Tensor:
    """A tensor without gaps in the order of its memory; a view."""
    return tensor.as_strided((math.prod(tensor.shape),), (1,))


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return _flat(tensor)[places]


def _put(tensor: Tensor, places: Tensor, values: Tensor) -> None:
    _flat(tensor)[places] = values.to(tensor.dtype)
