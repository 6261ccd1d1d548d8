"""What a method may look at and change when it acts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from itop.allocation import Allocation, LayerShape
from itop.distributed.agreement import Ranks
from itop.optimizer_group import OptimizerGroup
from itop.topology import Topology

_NOISE = 1 << 32
"""Keeps a method's noise apart from the topology's random choices."""


@final
@dataclass(frozen=True, slots=True)
class TrainingData:
    """Batches and the loss on them, for methods that look at the data before training begins.

    Attributes:
        batches: Starts anew over (inputs, targets), on the model's device; may be endless.
        loss: ``loss(outputs, targets)``, a scalar.
    """

    batches: Callable[[], Iterable[tuple[Any, Any]]]
    loss: Callable[[Any, Any], Tensor]

    def first(self, count: int) -> Iterator[tuple[Any, Any]]:
        """The first ``count`` batches, from the start again where there are fewer.

        Raises:
            ValueError: If there is no batch at all.
        """
        left = count
        while left > 0:
            seen = 0
            for batch in islice(self.batches(), left):
                seen += 1
                yield batch
            if seen == 0:
                raise ValueError("batches must hold at least one (inputs, targets), got none")
            left -= seen


@dataclass(slots=True)
class Context:
    """The engine's side of a method's work. A method is a frozen value; what it must remember lives here.

    Attributes:
        topology: Masks, weights, gradients; select and commit.
        model: The user's network, unwrapped.
        optimizer: The user's optimiser, or several in one view.
        target_counts: Active weights of each layer by the allocation.
        total_steps: The horizon of schedules, if known.
        allocation: What made the target counts.
        data: Training batches and loss, if the user gave them.
        ranks: The processes that train the model together.
        step: Optimiser steps so far, the current one included.
        zero_all_inactive: Whether weights outside the active set may hold values now, which a commit must clear.
        state: The method's own, saved with the engine: numbers, strings, tensors, lists and dicts of them.
        parameters: What the method trains beside the weights (:meth:`add_parameter`); saved with the engine.
    """

    topology: Topology
    model: nn.Module
    optimizer: Optimizer | OptimizerGroup
    target_counts: list[int]
    total_steps: int | None
    allocation: Allocation
    data: TrainingData | None = None
    ranks: Ranks = field(default_factory=Ranks)
    step: int = 0
    zero_all_inactive: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, in [0, 1]; 0 where the run's length is not known."""
        return 0.0 if self.total_steps is None else min(self.step / self.total_steps, 1.0)

    @property
    def target_total(self) -> int:
        """Active weights of all layers together."""
        return sum(self.target_counts)

    def counts_at(self, density: float) -> list[int]:
        """Active weights of each layer where the allocation distributes another density."""
        if density >= 1.0:
            return [layer.numel for layer in self.topology.layers]
        if 1.0 - density >= 1.0:  # nothing, also after rounding
            return [0] * len(self.topology.layers)
        shapes = [LayerShape(layer.name, layer.shape) for layer in self.topology.layers]
        return self.allocation.counts(shapes, 1.0 - density)

    @property
    def members(self) -> tuple[Optimizer, ...]:
        """The optimisers that make one step together."""
        return self.optimizer.members if isinstance(self.optimizer, OptimizerGroup) else (self.optimizer,)

    # --- gradients and rates ------------------------------------------------------------------------------------------

    @property
    def gradient_scale(self) -> float:
        """What gradients are multiplied by where a fused optimiser is to undo a gradient scaler's factor itself."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return 1.0 if scale is None else float(scale)

    def gradients(self) -> list[Tensor]:
        """The gradients of each layer, unscaled.

        Raises:
            RuntimeError: If a layer has none.
        """
        gradients = self.topology.gradients()
        scale = self.gradient_scale
        return gradients if scale == 1.0 else [gradient / scale for gradient in gradients]

    def learning_rate(self, layer: int) -> float:
        """The present learning rate of a layer."""
        return float(self._group_of(self.topology.layers[layer].parameter)["lr"])

    def _group_of(self, parameter: Tensor) -> dict[str, Any]:
        for group in self.optimizer.param_groups:
            if any(parameter is member for member in group["params"]):
                return group
        raise KeyError("the parameter is not in the optimiser")

    def noise(self, layer: int, stream: int = 0) -> Tensor:
        """Uniform float32 numbers in [0, 1) in a layer's shape: the same for the same seed, step, layer and stream."""
        return self.topology.uniform(layer, self.topology.seed, layer, self.step, _NOISE + stream)

    # --- parameters of the method --------------------------------------------------------------------------------------

    def add_parameter(self, name: str, value: Tensor) -> nn.Parameter:
        """A tensor that the optimiser trains beside the weights.

        It joins the parameter group of the first sparse layer: learning-rate schedulers that exist already know the
        groups there are, and would not survive another one. ``model`` does not hear of it.
        """
        parameter = nn.Parameter(value.detach().clone())
        self.parameters[name] = parameter
        self._group_of(self.topology.layers[0].parameter)["params"].append(parameter)
        return parameter

    def release_parameters(self) -> None:
        """The optimiser forgets the method's parameters."""
        for parameter in self.parameters.values():
            parameters = self._group_of(parameter)["params"]
            parameters[:] = [other for other in parameters if other is not parameter]
            for optimizer in self.members:
                optimizer.state.pop(parameter, None)
        self.parameters.clear()

    def shield_from_decay(self, names: Sequence[str]) -> None:
        """Cancels the weight decay that the optimiser is about to apply to parameters of the method. Before a step.

        Gates and thresholds share a group with weights; decay would pull them towards a value that means something
        else there.
        """
        if not names:
            return
        group = self._group_of(self.parameters[names[0]])
        decay = float(group.get("weight_decay", 0.0) or 0.0)
        if decay == 0.0:
            return
        decoupled = bool(group.get("decoupled_weight_decay", isinstance(self.optimizer, AdamW)))
        with torch.no_grad():
            for name in names:
                parameter = self.parameters[name]
                if parameter.grad is None:
                    continue
                if decoupled:
                    parameter.div_(1.0 - float(group["lr"]) * decay)
                else:
                    parameter.grad.sub_(parameter, alpha=decay * self.gradient_scale)

    # --- devices and saving ------------------------------------------------------------------------------------------------

    def follow_device(self) -> None:
        """Moves the method's tensors to where the weights are now."""
        device = self.topology.device
        self.state = _moved(self.state, device)
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(device)

    def check_parameters(self, parameters: Mapping[str, object]) -> None:
        """Raises a ValueError if saved parameters are not this method's."""
        for name, saved in parameters.items():
            own = self.parameters.get(name)
            if own is None or not isinstance(saved, Tensor) or saved.shape != own.shape:
                raise ValueError(
                    f"the engine state belongs to another method: what it trains beside the weights differs in '{name}'"
                )

    def load(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        """Replaces the method's state by a saved one; the saved tensors stay their owner's."""
        self.state = _moved(state, self.topology.device, copies=True)
        with torch.no_grad():
            for name, value in parameters.items():
                self.parameters[name].copy_(value)


def _moved(value: Any, device: torch.device, copies: bool = False) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=copies)
    if isinstance(value, dict):
        return {key: _moved(entry, device, copies) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_moved(entry, device, copies) for entry in value]
    return value
