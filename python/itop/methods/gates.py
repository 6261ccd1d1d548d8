"""One trained gate a weight: hard concrete (L0), Bernoulli, continuous sparsification, AutoPrune.

A gate costs as much memory as its weight, and as much again for its share of the optimiser's state.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.hidden_weights import DenselyTrained, straight_through
from itop.ranges import FINITE, NOT_NEGATIVE, POSITIVE, PROPER_FRACTION, Range
from itop.schedules import step_at
from itop.selection import BitSet

GATE = "gate"
"""The name of the trained numbers."""


@dataclass(frozen=True, slots=True)
class Gated(DenselyTrained):
    """Effective weights are the hidden ones times a gate.

    Args:
        gate_speed: With SGD, how many times faster gates learn than weights (?).
    """

    gate_speed: float = 100.0

    def check_options(self) -> None:
        NOT_NEGATIVE.require("gate_speed", self.gate_speed)

    @property
    def speed(self) -> float:
        return self.gate_speed

    @property
    @abstractmethod
    def initial_gate(self) -> float:
        """The trained number behind a gate at the start."""

    @abstractmethod
    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        """What multiplies the weights, differentiable in the trained numbers ``gate``."""

    @property
    def differs_in_training(self) -> bool:
        return True

    def add_parameters(self, context: Context) -> None:
        self.add_to_layers(
            context,
            GATE,
            [torch.full_like(weight, self.initial_gate) for weight in context.topology.weights()],
        )

    def gates(self, context: Context) -> list[Tensor]:
        """The trained numbers of each layer."""
        return [self.parameter(context, GATE, i) for i in range(len(context.topology.layers))]

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        return weight * self.gate(context, layer, weight, self.parameter(context, GATE, layer), training)

    def saliency(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        return self.parameter(context, GATE, layer)

    def until_finish(self, context: Context) -> float:
        """How far the run is on its way to where the masks are fixed, in [0, 1]."""
        if context.total_steps is None:
            return 0.0
        return min(1.0, context.step / step_at(self.finish if self.finish is not None else 1.0, context.total_steps))


@dataclass(frozen=True, slots=True)
class StepGated(Gated):
    """Gates that are open from one value of their trained number on, where they are evaluated."""

    @property
    @abstractmethod
    def opens_at(self) -> float:
        """The smallest number of an open gate."""

    def kept(self, context: Context, effective: Sequence[Tensor]) -> BitSet:
        return ~context.topology.where(self.gates(context), limit=self.opens_at)


@final
@dataclass(frozen=True, slots=True)
class L0(StepGated):
    """Hard concrete gates and an L0 penalty (Louizos et al., Learning sparse neural networks through L0, ICLR 2018).

    ``z = clamp(s (zeta - gamma) + gamma, 0, 1)``, ``s = sigmoid((log u - log(1 - u) + log_alpha) / beta)``.

    Args:
        penalty: On the probability that a gate is open, each (?).
        drop_rate: Probability that a gate's coin falls on closed at the start.
        beta, gamma, zeta: Temperature and stretch.
    """

    penalty: float = 1e-4
    drop_rate: float = 0.5
    beta: float = 2.0 / 3.0
    gamma: float = -0.1
    zeta: float = 1.1

    def check_options(self) -> None:
        Gated.check_options(self)
        NOT_NEGATIVE.require("penalty", self.penalty)
        PROPER_FRACTION.require("drop_rate", self.drop_rate)
        POSITIVE.require("beta", self.beta)
        Range(-math.inf, 0.0, has_high=False).require("gamma", self.gamma)
        Range(1.0, math.inf, has_low=False).require("zeta", self.zeta)

    @property
    def name(self) -> str:
        return "l0"

    @property
    def initial_gate(self) -> float:
        return math.log(1.0 - self.drop_rate) - math.log(self.drop_rate)

    @property
    def opens_at(self) -> float:
        return math.log(-self.gamma / self.zeta)  # where the stretched sigmoid is 0

    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        if training:
            uniform = context.noise(layer).clamp(1e-6, 1.0 - 1e-6)
            soft = torch.sigmoid((uniform.log() - (-uniform).log1p() + gate) / self.beta)
        else:
            soft = torch.sigmoid(gate)
        value = (soft * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)
        return value if training else value.masked_fill(gate < self.opens_at, 0.0)

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context):
            return None
        shift = self.beta * math.log(-self.gamma / self.zeta)
        return self.penalty * torch.stack([torch.sigmoid(gate - shift).sum() for gate in self.gates(context)]).sum()


@final
@dataclass(frozen=True, slots=True)
class BernoulliGates(StepGated):
    """Gates drawn with a trained probability, straight-through; p >= 0.5 is open (Srinivas et al., CVPRW 2017).

    The penalty is ``bimodal * sum(p (1 - p)) + penalty * sum(p)``.

    Args:
        initial_probability: p at the start (?).
        bimodal, penalty: Weights of the two terms (?).
    """

    initial_probability: float = 0.75
    bimodal: float = 1e-5
    penalty: float = 1e-5

    def check_options(self) -> None:
        Gated.check_options(self)
        Range(0.5, 1.0).require("initial_probability", self.initial_probability)
        NOT_NEGATIVE.require("bimodal", self.bimodal)
        NOT_NEGATIVE.require("penalty", self.penalty)

    @property
    def name(self) -> str:
        return "bernoulli-gates"

    @property
    def initial_gate(self) -> float:
        return self.initial_probability

    @property
    def opens_at(self) -> float:
        return 0.5

    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        if training:
            return straight_through((context.noise(layer) < gate).to(gate.dtype), gate)
        return straight_through((gate >= self.opens_at).to(gate.dtype), gate)

    def saliency(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        return expected_size(weight, self.parameter(context, GATE, layer))

    def after_optimizer(self, context: Context, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for gate in self.gates(context):
                gate.clamp_(0.0, 1.0)

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context):
            return None
        terms = [self.bimodal * (gate * (1.0 - gate)).sum() + self.penalty * gate.sum() for gate in self.gates(context)]
        return torch.stack(terms).sum()


@final
@dataclass(frozen=True, slots=True)
class ContinuousSparsification(StepGated):
    """Gates ``sigmoid(beta s)`` whose beta grows until they are steps (Savarese et al., NeurIPS 2020).

    beta grows from 1 to ``final_beta`` exponentially until the masks are fixed; evaluation sees ``s >= 0``.

    Args:
        initial: s at the start.
        final_beta: The steepest.
        penalty: On the sum of gates (?).
    """

    initial: float = 0.0
    final_beta: float = 200.0
    penalty: float = 1e-6

    def check_options(self) -> None:
        Gated.check_options(self)
        FINITE.require("initial", self.initial)
        Range(1.0, math.inf).require("final_beta", self.final_beta)
        NOT_NEGATIVE.require("penalty", self.penalty)

    @property
    def name(self) -> str:
        return "continuous-sparsification"

    @property
    def needs_total_steps(self) -> bool:
        return True

    @property
    def initial_gate(self) -> float:
        return self.initial

    def beta(self, context: Context) -> float:
        """The steepness of now."""
        return float(self.final_beta ** self.until_finish(context))

    @property
    def opens_at(self) -> float:
        return 0.0

    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        if training:
            return torch.sigmoid(self.beta(context) * gate)
        return (gate >= self.opens_at).to(gate.dtype)

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context):
            return None
        beta = self.beta(context)
        return self.penalty * torch.stack([torch.sigmoid(beta * gate).sum() for gate in self.gates(context)]).sum()


class _SignedStep(torch.autograd.Function):
    """``w * (m > 0)``; backward the gradient of w passes the gate, that of m is ``g sign(w)``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(weight, gate)
        return weight * (gate > 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weight, gate = ctx.saved_tensors
        return gradients[0] * (gate > 0), gradients[0] * torch.sign(weight)


@final
@dataclass(frozen=True, slots=True)
class AutoPrune(Gated):
    """A trained number a weight, active while it is positive; it moves with ``g sign(w)`` (Xiao et al., NeurIPS 2019).

    Args:
        initial: At the start, above 0 (?).
        penalty: L1 on the numbers, which pulls gates shut (?).
    """

    gate_speed: float = 1.0
    initial: float = 0.05
    penalty: float = 1e-4

    def check_options(self) -> None:
        Gated.check_options(self)
        POSITIVE.require("initial", self.initial)
        NOT_NEGATIVE.require("penalty", self.penalty)

    @property
    def name(self) -> str:
        return "autoprune"

    @property
    def differs_in_training(self) -> bool:
        return False

    @property
    def initial_gate(self) -> float:
        return self.initial

    def kept(self, context: Context, effective: Sequence[Tensor]) -> BitSet:
        return context.topology.where(self.gates(context), limit=0.0, greater=True)

    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        return (gate > 0).to(weight.dtype)

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        result: Tensor = _SignedStep.apply(weight, self.parameter(context, GATE, layer))
        return result

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context):
            return None
        return self.penalty * torch.stack([torch.relu(gate).sum() for gate in self.gates(context)]).sum()


def expected_size(weight: Tensor, probability: Tensor) -> Tensor:
    """``p abs(w)``: thousands of probabilities may stand at 1, and their weights then tell them apart."""
    return weight.abs().mul_(probability)
