"""NeST (Dai et al., NeST: a neural network synthesis tool based on a grow-and-prune paradigm, 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from itop.allocation import AllocationLike
from itop.analysis.training_flops import SNFSTraining, TrainingFlops
from itop.context import Context
from itop.criteria.averages import gradient_average, update_average
from itop.criteria.drop import MagnitudeDrop
from itop.criteria.initial import RandomMasksOfDensity
from itop.methods.method import Method
from itop.ranges import FRACTION, POSITIVE_FRACTION, require_count
from itop.schedules import AtFractions, EitherOf, Every, UpdateSchedule, step_at
from itop.selection import BitSet, Scores
from itop.update_report import UpdateReport

_GRADIENT = "nest gradient"
_BRIDGE = "bridging gradient"


@final
@dataclass(frozen=True, slots=True)
class NeST(Method):
    """Grows a small random seed network by gradient, connections and neurons, then prunes it by magnitude.

    *Growth* (until ``grow_until``): each update activates the ``growth`` share of a layer's weights with the largest
    gradients averaged over the steps since the last one; a new weight starts at one gradient step,
    ``-learning rate * g``. *Neurons*: between two consecutive linear layers, a hidden unit without any connection is
    woken where the input of the one and the output of the other correlate most, by their bridging gradient
    ``G = mean(dL/d output x input)``: over its largest ``bridge`` share the new unit gets ``sqrt(abs(G))`` in and
    ``-sign(G) sqrt(abs(G))`` out, scaled to the layers' mean magnitudes. *Pruning* then takes the smallest magnitudes of
    all layers together, in equal parts, down to the target; the rest of the run retrains.

    The number of weights is not fixed before the end, where it is exactly the target.

    Args:
        update_every: Steps between updates (?).
        seed_density: Of the seed network, as a share of the target density, in (0, 1] (?).
        growth: Share of a layer's weights that an update activates (?).
        neurons: Neurons woken in each hidden layer by an update (?).
        bridge: Share of the largest bridging gradients that a new neuron connects (?).
        grow_until, prune_until: Fractions of the run (?).
    """

    update_every: int = 100
    seed_density: float = 0.5
    growth: float = 0.02
    neurons: int = 1
    bridge: float = 0.02
    grow_until: float = 0.4
    prune_until: float = 0.75
    allocation: AllocationLike = "erk"

    def __post_init__(self) -> None:
        Every(self.update_every)
        for name in ("seed_density", "bridge"):
            POSITIVE_FRACTION.require(name, getattr(self, name))
        FRACTION.require("growth", self.growth)
        require_count("neurons", self.neurons, 0)
        for name in ("grow_until", "prune_until"):
            POSITIVE_FRACTION.require(name, getattr(self, name))
        if not 0.0 < self.grow_until < self.prune_until <= 1.0:
            raise ValueError(
                f"NeST needs 0 < grow_until < prune_until <= 1, got {self.grow_until!r} and {self.prune_until!r}"
            )

    @property
    def name(self) -> str:
        return "nest"

    @property
    def schedule(self) -> UpdateSchedule:
        return EitherOf((Every(self.update_every, until=self.prune_until), AtFractions((self.prune_until,))))

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    @property
    def acts_before_step(self) -> bool:
        return True

    def initialise(self, context: Context) -> None:
        topology = context.topology
        density = context.target_total / sum(layer.numel for layer in topology.layers) * self.seed_density
        topology.initialise(RandomMasksOfDensity(density).masks(context))

    def _grows(self, context: Context) -> bool:
        return context.step < step_at(self.grow_until, context.total_steps or 1)

    def acts(self, context: Context) -> bool:
        return self._grows(context)

    def before_step(self, context: Context) -> None:
        if self._grows(context):
            update_average(context, _GRADIENT, 0.9)

    def hooks(self, context: Context) -> Iterable[RemovableHandle]:
        handles: list[RemovableHandle] = []
        if self.neurons > 0:
            for lower, _ in linear_pairs(context):
                handles += _watch(context, self, lower)
        return handles

    def update(self, context: Context) -> UpdateReport | None:
        if self._grows(context):
            return self._grow(context)
        for key in (_GRADIENT, f"{_GRADIENT} step", _BRIDGE):
            context.state.pop(key, None)
        return self._prune(context)

    def _grow(self, context: Context) -> UpdateReport:
        topology = context.topology
        gradients = gradient_average(context, _GRADIENT)
        assert gradients is not None  # before_step came first
        counts = [round(self.growth * layer.numel) for layer in topology.layers]
        grown = topology.select(~topology.active, counts, Scores(gradients))
        values = [-context.learning_rate(i) * gradient for i, gradient in enumerate(gradients)]
        for (lower, upper), bridge in zip(linear_pairs(context), context.state.get(_BRIDGE, []), strict=False):
            grown = self._wake(context, lower, upper, bridge, grown, values)
        report = topology.commit(
            topology.empty(), grown, zero_all_inactive=context.zero_all_inactive, marks_reliable=False
        )
        for weight, value, mask in zip(topology.weights(), values, grown.to_tensors(), strict=True):
            weight.copy_(torch.where(mask, value.to(weight.dtype), weight))
        context.state.pop(_BRIDGE, None)
        return report

    def _wake(
        self, context: Context, lower: int, upper: int, bridge: Tensor, grown: BitSet, values: list[Tensor]
    ) -> BitSet:
        """Adds the connections of new neurons between two layers to what is grown, and their values."""
        topology = context.topology
        if not bridge.numel():
            return grown
        taken = topology.active | grown
        into, out_of = taken.to_tensor(lower), taken.to_tensor(upper)
        idle = (~into.any(1) & ~out_of.any(0)).nonzero().flatten()[: self.neurons]
        masks = grown.to_tensors()
        count = max(1, round(self.bridge * bridge.numel()))
        ranked = bridge.abs().flatten().argsort(descending=True, stable=True)
        scale = float(topology.local(lower).abs().sum() / max(1, topology.num_active[lower]))
        for turn, unit in enumerate(idle.tolist()):
            places = ranked[turn * count : (turn + 1) * count]
            strength = bridge.flatten()[places]
            size = strength.abs().sqrt() * (scale / float(strength.abs().sqrt().mean().clamp_min(1e-12)))
            outputs, inputs = places // bridge.shape[1], places % bridge.shape[1]
            masks[lower][unit, inputs] = True
            masks[upper][outputs, unit] = True
            values[lower][unit] = torch.zeros_like(values[lower][unit]).index_put_((inputs,), size)
            values[upper][:, unit] = torch.zeros_like(values[upper][:, unit]).index_put_(
                (outputs,), -torch.sign(strength) * size
            )
        return topology.from_tensors(masks) - topology.active

    def _prune(self, context: Context) -> UpdateReport | None:
        topology = context.topology
        total = context.total_steps or 1
        first, last = step_at(self.grow_until, total), step_at(self.prune_until, total)
        active = sum(topology.num_active)
        rounds_left = max(1, -(-(last - context.step) // self.update_every) + 1) if context.step < last else 1
        surplus = max(0, active - context.target_total)
        if context.step >= last and active < context.target_total:
            grown = topology.select(~topology.active, context.target_total - active)
            return topology.commit(topology.empty(), grown, zero_all_inactive=context.zero_all_inactive)
        assert context.step >= first
        dropped = MagnitudeDrop().drop_exactly(context, -(-surplus // rounds_left))
        return topology.commit(dropped, topology.empty(), zero_all_inactive=context.zero_all_inactive)

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return SNFSTraining(sparse, dense)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "growth": self.growth, "neurons": self.neurons, "bridge": self.bridge}


def linear_pairs(context: Context) -> list[tuple[int, int]]:
    """Consecutive linear layers of which the one fits the other by its width."""
    layers = context.topology.layers
    return [
        (i, i + 1)
        for i in range(len(layers) - 1)
        if isinstance(layers[i].module, nn.Linear)
        and isinstance(layers[i + 1].module, nn.Linear)
        and layers[i].shape[0] == layers[i + 1].shape[1]
    ]


def _watch(context: Context, method: NeST, lower: int) -> list[RemovableHandle]:
    """Notes the bridging gradient between the input of a layer and the output of the next, at the last backward pass.

    Where the two see other numbers of samples, as around a mean over a sequence, the one does not feed the other.
    """
    position = [pair[0] for pair in linear_pairs(context)].index(lower)
    number = len(linear_pairs(context))
    inputs: list[Tensor] = []

    def keep_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if module.training and method._grows(context):
            inputs[:] = [arguments[0].detach()]

    def keep_bridge(module: nn.Module, grad_input: Any, grad_output: tuple[Tensor, ...]) -> None:
        if inputs and method._grows(context):
            upper = grad_output[0].detach().flatten(0, -2).float()
            below = inputs.pop().flatten(0, -2).float()
            if len(upper) == len(below):
                bridges = context.state.setdefault(_BRIDGE, [torch.zeros(0)] * number)
                bridges[position] = upper.t() @ below / len(below)

    layers = context.topology.layers
    return [
        layers[lower].module.register_forward_pre_hook(keep_input),
        layers[lower + 1].module.register_full_backward_hook(keep_bridge),
    ]
