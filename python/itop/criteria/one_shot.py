"""Initial masks that look at the model and, most of them, at training batches.

All scores are taken at the initial weights, by differentiating a functional call of the model: its weights, buffers,
gradients, mode and the random state are afterwards as they were. All layers compete: the total count is exact, the
allocation does not enter.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from itop.context import Context, TrainingData
from itop.criteria.initial import InitialMasks
from itop.distributed.shards import reshard
from itop.ranges import POSITIVE, POSITIVE_FRACTION, require_count
from itop.selection import BitSet, Scores


class DataMasks(InitialMasks):
    """Masks that need training batches."""

    @property
    def needs_data(self) -> bool:
        return True

    @property
    def works_on_shards(self) -> bool:
        return False


def training_data(context: Context) -> TrainingData:
    """The batches and the loss that the engine was given."""
    assert context.data is not None  # Method.check has asked for them
    return context.data


@contextmanager
def _trial(context: Context, training: bool) -> Iterator[None]:
    """A stretch in which the model may be called without leaving a trace."""
    model = context.model
    modes = {module: module.training for module in model.modules()}
    devices = [context.topology.device] if context.topology.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(context.topology.seed % 2**63)
        model.train(training)
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _call(context: Context, weights: list[Tensor], inputs: Any, others: dict[str, Tensor] | None = None) -> Any:
    """The model's output with other values for the sparse weights, and its buffers left alone."""
    values = {name: buffer.clone() for name, buffer in context.model.named_buffers()}
    values.update(others or {})
    values.update({layer.name: weight for layer, weight in zip(context.topology.layers, weights, strict=True)})
    return functional_call(context.model, values, (inputs,))


def loss_gradients(context: Context, weights: list[Tensor], num_batches: int) -> list[Tensor]:
    """The gradient of the loss at given weights, the mean over the first batches; dense, whatever is zero."""
    data = training_data(context)
    if context.topology.has_shards:
        return _sharded_gradients(context, weights, num_batches)
    totals = [torch.zeros_like(weight) for weight in weights]
    with _trial(context, training=True):
        for inputs, targets in data.first(num_batches):
            leaves = [weight.detach().requires_grad_() for weight in weights]
            loss = data.loss(_call(context, leaves, inputs), targets)
            for total, gradient in zip(totals, torch.autograd.grad(loss, leaves), strict=True):
                total += gradient / num_batches
    return [context.ranks.average(total) for total in totals]


def _sharded_gradients(context: Context, weights: list[Tensor], num_batches: int) -> list[Tensor]:
    """The same of a model whose hooks gather its shards: it runs as it does in training, and is put back afterwards."""
    data, topology, model = training_data(context), context.topology, context.model
    before = _copies(context)
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for i, weight in enumerate(weights):
                topology.local(i).copy_(weight)
        for parameter, _ in gradients:
            parameter.grad = None
        with _trial(context, training=True):
            for inputs, targets in data.first(num_batches):
                torch.autograd.backward(data.loss(model(inputs), targets) / num_batches)
        return [gradient.clone() for gradient in topology.gradients()]
    finally:
        reshard(model)
        with torch.no_grad():
            for i, weight in enumerate(before):
                topology.local(i).copy_(weight)
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _copies(context: Context) -> list[Tensor]:
    return [weight.clone() for weight in context.topology.weights()]


def _masked(weights: list[Tensor], active: BitSet) -> list[Tensor]:
    return [weight * mask for weight, mask in zip(weights, active.to_tensors(), strict=True)]


@final
@dataclass(frozen=True, slots=True)
class SnipMasks(DataMasks):
    """The largest connection sensitivities ``abs(g w)`` on the first batches.

    Args:
        num_batches: At least 1; the paper's own is one batch.

    Reference:
        Lee et al., SNIP: single-shot network pruning based on connection sensitivity, ICLR 2019, equation 4.
    """

    num_batches: int = 1

    def __post_init__(self) -> None:
        require_count("num_batches", self.num_batches)

    @property
    def works_on_shards(self) -> bool:
        return True

    def masks(self, context: Context) -> BitSet:
        return context.topology.select(context.topology.full(), context.target_total, self.scores(context))

    def scores(self, context: Context) -> Scores:
        weights = _copies(context)
        gradients = loss_gradients(context, weights, self.num_batches)
        return Scores([gradient * weight for gradient, weight in zip(gradients, weights, strict=True)])


@final
@dataclass(frozen=True, slots=True)
class GraspMasks(DataMasks):
    """Keeps the largest ``w * (H g)``: those whose removal would most reduce the gradient flow.

    Args:
        num_batches: Over which gradient and Hessian-gradient product are averaged; at least 1.
        temperature: Outputs are divided by it.

    Reference:
        Wang et al., Picking winning tickets before training by preserving gradient flow, ICLR 2020, algorithm 2.
    """

    num_batches: int = 1
    temperature: float = 200.0

    def __post_init__(self) -> None:
        require_count("num_batches", self.num_batches)
        POSITIVE.require("temperature", self.temperature)

    def masks(self, context: Context) -> BitSet:
        return context.topology.select(context.topology.full(), context.target_total, self.scores(context))

    def scores(self, context: Context) -> Scores:
        data = training_data(context)
        weights = [weight.requires_grad_() for weight in _copies(context)]
        totals = [torch.zeros_like(weight) for weight in weights]
        # Fused attention has no second derivative.
        with _trial(context, training=True), sdpa_kernel(SDPBackend.MATH):
            averages = [torch.zeros_like(weight) for weight in weights]
            for inputs, targets in data.first(self.num_batches):
                loss = data.loss(_call(context, weights, inputs) / self.temperature, targets)
                for average, gradient in zip(averages, torch.autograd.grad(loss, weights), strict=True):
                    average += gradient / self.num_batches
            averages = [context.ranks.average(average) for average in averages]
            for inputs, targets in data.first(self.num_batches):
                loss = data.loss(_call(context, weights, inputs) / self.temperature, targets)
                gradients = torch.autograd.grad(loss, weights, create_graph=True)
                flow = sum(
                    ((gradient * average).sum() for gradient, average in zip(gradients, averages, strict=True)),
                    start=torch.zeros((), device=context.topology.device),
                )
                products = torch.autograd.grad(flow, weights, allow_unused=True)
                for total, product in zip(totals, products, strict=True):
                    if product is not None:
                        total += product / self.num_batches
        totals = [context.ranks.average(total) for total in totals]
        return Scores([weight.detach() * product for weight, product in zip(weights, totals, strict=True)], signed=True)


@final
@dataclass(frozen=True, slots=True)
class SynFlowMasks(InitialMasks):
    """Keeps the largest synaptic flow, in rounds: ``abs(dR/dw * w)`` with all parameters made positive and ones as input.

    R is the sum of the outputs. No data is used, only the shape of an input, taken from the first batch; whole numbers,
    which a network takes for indices (tokens), stay as they are in its first sample. In double precision: the flow of a
    deep network leaves the range of single.

    Args:
        rounds: n; after round k a fraction ``density ** (k / n)`` is left.

    Reference:
        Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, NeurIPS 2020.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        require_count("rounds", self.rounds)

    @property
    def needs_data(self) -> bool:
        return True

    @property
    def works_on_shards(self) -> bool:
        return False

    def masks(self, context: Context) -> BitSet:
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        weights = [weight.abs().double() for weight in _copies(context)]
        sparse = {id(layer.parameter) for layer in topology.layers}
        others = {
            name: value.detach().abs().double()
            for name, value in context.model.named_parameters()
            if id(value) not in sparse
        }
        others.update(
            {name: value.double() for name, value in context.model.named_buffers() if value.is_floating_point()}
        )
        inputs = next(iter(training_data(context).first(1)))[0]
        ones = torch.ones_like(inputs[:1], dtype=torch.float64) if inputs.is_floating_point() else inputs[:1]
        active = topology.full()
        with _trial(context, training=False):
            for k in range(1, self.rounds + 1):
                leaves = [weight.requires_grad_() for weight in _masked(weights, active)]
                flow = _call(context, leaves, ones, others).sum()
                scores = [
                    gradient * leaf.detach()
                    for gradient, leaf in zip(torch.autograd.grad(flow, leaves), leaves, strict=True)
                ]
                left = geometric_count(numel, context.target_total, k / self.rounds)
                active = topology.select(active, left, Scores(scores))
        return active


@dataclass(frozen=True, slots=True)
class _Iterative(DataMasks):
    """Sensitivity pruning in rounds: after round t ``exp(t/T ln k + (1 - t/T) ln N)`` weights are left.

    Args:
        rounds: T.
        num_batches: On which each round's gradient is taken.
    """

    rounds: int = 60
    num_batches: int = 1

    def __post_init__(self) -> None:
        require_count("rounds", self.rounds)
        require_count("num_batches", self.num_batches)

    @abstractmethod
    def narrowed(self, context: Context, active: BitSet, weights: list[Tensor], count: int) -> BitSet:
        """The next active set, of ``count`` weights."""

    def masks(self, context: Context) -> BitSet:
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        weights = _copies(context)
        active = topology.full()
        for t in range(1, self.rounds + 1):
            active = self.narrowed(
                context, active, weights, geometric_count(numel, context.target_total, t / self.rounds)
            )
        return active


@final
@dataclass(frozen=True, slots=True)
class ForceMasks(_Iterative):
    """FORCE: sensitivities of the pruned network times the dense original weights, so that removed weights may return.

    Reference:
        de Jorge et al., Progressive skeletonization: trimming more fat from a network at initialization, ICLR 2021.
    """

    def narrowed(self, context: Context, active: BitSet, weights: list[Tensor], count: int) -> BitSet:
        gradients = loss_gradients(context, _masked(weights, active), self.num_batches)
        scores = [gradient * weight for gradient, weight in zip(gradients, weights, strict=True)]
        return context.topology.select(context.topology.full(), count, Scores(scores))


@final
@dataclass(frozen=True, slots=True)
class IterSnipMasks(_Iterative):
    """Iter-SNIP: sensitivities of what is left; what is gone stays gone (de Jorge et al., ICLR 2021)."""

    def narrowed(self, context: Context, active: BitSet, weights: list[Tensor], count: int) -> BitSet:
        masked = _masked(weights, active)
        gradients = loss_gradients(context, masked, self.num_batches)
        scores = [gradient * weight for gradient, weight in zip(gradients, masked, strict=True)]
        return context.topology.select(active, count, Scores(scores))


@final
@dataclass(frozen=True, slots=True)
class IsometricSnipMasks(DataMasks):
    """SNIP on orthogonal initial weights, after which the sparse weights are brought near to an isometry.

    Replaces the initial weights: each layer's matrix ``[out, in * kernel]`` becomes orthogonal, SNIP chooses masks, then
    gradient descent on ``norm(C W (C W)^T - I)^2`` (the smaller Gram matrix) moves the active weights.

    Args:
        num_batches: As for SNIP.
        isometry_steps: Of that descent (?).
        isometry_rate: Its step relative to the largest that is stable, in (0, 1].

    Reference:
        Lee et al., A signal propagation perspective for pruning neural networks at initialization, ICLR 2020, section 4.
    """

    num_batches: int = 1
    isometry_steps: int = 200
    isometry_rate: float = 0.5

    def __post_init__(self) -> None:
        require_count("num_batches", self.num_batches)
        require_count("isometry_steps", self.isometry_steps, 0)
        POSITIVE_FRACTION.require("isometry_rate", self.isometry_rate)

    def masks(self, context: Context) -> BitSet:
        topology = context.topology
        generator = torch.Generator().manual_seed(topology.seed % 2**63)
        for weight in topology.weights():
            start = nn.init.orthogonal_(torch.empty(len(weight), weight.numel() // len(weight)), generator=generator)
            weight.copy_(start.view(weight.shape))
        active = SnipMasks(self.num_batches).masks(context)
        for weight, mask in zip(topology.weights(), active.to_tensors(), strict=True):
            weight.copy_(self._towards_isometry(weight * mask, mask))
        return active

    def _towards_isometry(self, weight: Tensor, mask: Tensor) -> Tensor:
        matrix, admitted = weight.flatten(1).float(), mask.flatten(1)
        if matrix.shape[0] > matrix.shape[1]:
            matrix, admitted = matrix.t(), admitted.t()
        identity = torch.eye(matrix.shape[0], device=matrix.device)
        for _ in range(self.isometry_steps):
            gradient = (matrix @ matrix.t() - identity) @ matrix * admitted
            # The Hessian's largest eigenvalue is below 3 times the squared norm, or 1 near zero.
            matrix = (
                matrix - self.isometry_rate / (3.0 * float(torch.linalg.matrix_norm(matrix, 2) ** 2) + 1.0) * gradient
            )
        if weight.flatten(1).shape != matrix.shape:
            matrix = matrix.t()
        return matrix.reshape(weight.shape).to(weight.dtype)


def geometric_count(numel: int, target: int, progress: float) -> int:
    """Weights left on the way from all to the target, the same share going in each equal part of it."""
    if progress >= 1.0 or target == 0:
        return target
    return round(math.exp(progress * math.log(target) + (1.0 - progress) * math.log(numel)))
