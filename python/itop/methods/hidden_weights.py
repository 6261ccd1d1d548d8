"""The frame of every rule that changes which weights the forward pass sees.

The model's parameters hold the *effective* weights, exactly zero where inactive: any forward pass, evaluation, export,
compilation or deep copy sees an ordinary sparse model, and ``model.state_dict()`` keeps its keys. The *hidden* weights,
from which the effective ones are computed, lie in ``context.state`` (as many bytes as the weights). Around each optimiser
step they change places::

    before the step   gradients of the effective weights become, by the chain rule, those of the hidden weights and of
                      the method's own parameters (thresholds, gates); the parameters now hold the hidden weights
    the step          trains them, with whatever optimiser
    after the step    the effective weights are computed anew and put back; the active set is where they are not zero

Rules that sample (gates, dropout) put a sample in place when a training forward pass of the model begins and the mean
when one in evaluation mode does. The sample is a pure function of seed and step.

The density such a rule ends with depends on its penalties. So that runs can be compared, the rule ends at a fraction of
the run (``finish``): the target number of weights stays, those that the rule keeps before others and then those of the
largest saliency, over all layers; the hidden weights are forgotten, and what is left of the run trains the others. On the
way there a *limit*, a cubic ramp from dense to the target, bounds from above what the rule keeps, by the same order, so
that nothing is cut off at once; a rule that is sparser by itself never notices. ``finish=None`` lets the rule go on to the
end without a limit, with the density that it learned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from itop.analysis.training_flops import DenseTraining, TopKASTTraining, TrainingFlops
from itop.context import Context
from itop.methods.method import Method
from itop.ranges import POSITIVE_FRACTION, require_count
from itop.schedules import AtFractions, DensityRamp, EitherOf, Every, TimesARun, UpdateSchedule, step_at
from itop.selection import BitSet, Scores
from itop.update_report import UpdateReport

_HIDDEN = "hidden weights"
_REPORTED = "reported masks"
_SAMPLED = "sampled"
_LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class HiddenWeights(Method):
    """A rule whose forward pass sees a function of the trained weights.

    Args:
        finish: Fraction of the run after which the masks are fixed at the target density, in (0, 1]; None: never.
        report_every: Steps between two reports of how the masks changed, and two steps of the limit; the masks change at
            every step. None: a hundredth of the run.
    """

    finish: float | None = 0.75
    report_every: int | None = None

    def __post_init__(self) -> None:
        if self.finish is not None:
            POSITIVE_FRACTION.require("finish", self.finish)
        if self.report_every is not None:
            require_count("report_every", self.report_every)
        self.check_options()

    def check_options(self) -> None:
        """Raises ValueError where an option of the subclass is out of range."""

    # --- what a subclass says -----------------------------------------------------------------------------------------

    def add_parameters(self, context: Context) -> None:
        """Adds what the rule trains beside the weights: ``context.add_parameter``."""

    @abstractmethod
    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        """What the forward pass sees of a layer, differentiable in ``weight`` and in the layer's own parameters.

        Args:
            weight: The hidden weights of the layer, in its shape.
            training: Whether a sampling rule samples; otherwise the value to evaluate with, zero where inactive.
        """

    def kept(self, context: Context, effective: Sequence[Tensor]) -> BitSet:
        """Which weights the rule keeps, whatever the limit: by default those whose effective value is not zero.

        Values of others must be zero; a weight that is kept may be zero by chance.
        """
        return context.topology.from_tensors([value != 0 for value in effective])

    def saliency(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        """What ranks weights when the rule finishes or meets its limit; the largest stay. By default ``abs(w)``.

        No gradients are wanted.
        """
        return weight.abs()

    @property
    def has_limit(self) -> bool:
        """Whether the ramp towards the target bounds what the rule keeps."""
        return self.finish is not None

    @property
    def differs_in_training(self) -> bool:
        """Whether training sees other weights than evaluation: a sample of them, or soft gates."""
        return False

    @property
    def speed(self) -> float:
        """Gradients of the method's own parameters are multiplied by it: with SGD, their learning rate is.

        Gates see the loss through ``g w``, which is far smaller than the g that weights see.
        """
        return 1.0

    @property
    def decays(self) -> bool:
        """Whether the optimiser's weight decay acts on the method's own parameters."""
        return False

    def parameters_of(self, context: Context, layer: int) -> list[nn.Parameter]:
        """The method's own parameters that a layer's effective weights depend on."""
        suffix = f"/{context.topology.layers[layer].name}"
        return [value for name, value in context.parameters.items() if name.endswith(suffix)]

    def parameter(self, context: Context, name: str, layer: int) -> nn.Parameter:
        """One of the method's own parameters: that of a layer."""
        return context.parameters[f"{name}/{context.topology.layers[layer].name}"]

    def add_to_layers(self, context: Context, name: str, values: Sequence[Tensor]) -> None:
        """Adds a parameter to each layer."""
        for layer, value in zip(context.topology.layers, values, strict=True):
            context.add_parameter(f"{name}/{layer.name}", value)

    def after_optimizer(self, context: Context, weights: Sequence[Tensor]) -> None:
        """Called at the start and after each optimiser step, to choose masks, project or reset what the rule trains.

        Args:
            weights: The hidden weights.
        """

    # --- the frame -----------------------------------------------------------------------------------------------------

    @property
    def schedule(self) -> UpdateSchedule:
        reports = TimesARun(100) if self.report_every is None else Every(self.report_every)
        return reports if self.finish is None else EitherOf((reports, AtFractions((self.finish,))))

    @property
    def acts_before_step(self) -> bool:
        return True

    def check(self, context: Context) -> None:
        if context.topology.optimizer_state.evaluates_repeatedly:
            raise ValueError(
                f"method '{self.name}' exchanges the weights around each step, so that the evaluations of LBFGS within one "
                "would see others than the network's; use another optimiser"
            )

    def hides_weights(self, context: Context) -> bool:
        return _HIDDEN in context.state

    def acts(self, context: Context) -> bool:
        return self.hides_weights(context)

    def hidden_weights(self, context: Context) -> list[Tensor]:
        """The trained weights behind what the model holds; outside the optimiser's step."""
        hidden: list[Tensor] = context.state[_HIDDEN]
        return hidden

    def initialise(self, context: Context) -> None:
        topology = context.topology
        context.state[_HIDDEN] = [weight.clone() for weight in topology.weights()]
        self.add_parameters(context)
        self.after_optimizer(context, topology.weights())
        effective = self._effective(context)
        topology.initialise(self.kept(context, effective))
        for weight, value in zip(topology.weights(), effective, strict=True):
            weight.copy_(value)
        context.state[_REPORTED] = topology.active.to_tensors()

    def before_step(self, context: Context) -> None:
        if not self.hides_weights(context):
            return
        sampled = self.differs_in_training and _is_sampled(context)
        for i, (layer, hidden) in enumerate(zip(context.topology.layers, self.hidden_weights(context), strict=True)):
            gradient = layer.parameter.grad
            if gradient is not None:
                self._pass_back(context, i, hidden, gradient, sampled)
            context.topology.local(i).copy_(hidden)
        if not self.decays:
            context.shield_from_decay(list(context.parameters))

    def _pass_back(self, context: Context, layer: int, hidden: Tensor, gradient: Tensor, sampled: bool) -> None:
        own = self.parameters_of(context, layer)
        leaf = hidden.detach().requires_grad_()
        with torch.enable_grad():
            effective = self.effective(context, layer, leaf, training=sampled)
            limit: list[Tensor] | None = context.state.get(_LIMIT)
            if limit is not None:
                effective = effective * limit[layer]
        inner, *others = torch.autograd.grad(effective, [leaf, *own], gradient, allow_unused=True)
        gradient.copy_(inner if inner is not None else torch.zeros_like(gradient))
        for parameter, part in zip(own, others, strict=True):
            if part is not None:
                part = part * self.speed
                parameter.grad = part if parameter.grad is None else parameter.grad + part

    def after_step(self, context: Context) -> None:
        if not self.hides_weights(context):
            return
        topology = context.topology
        self.after_optimizer(context, topology.weights())
        for hidden, weight in zip(self.hidden_weights(context), topology.weights(), strict=True):
            hidden.copy_(weight)
        effective = self._effective(context)
        kept = self.kept(context, effective)
        if self._is_limited_anew(context):
            self._lower_limit(context, kept)
        limit: list[Tensor] | None = context.state.get(_LIMIT)
        if limit is None:
            for weight, value in zip(topology.weights(), effective, strict=True):
                weight.copy_(value)
        else:
            kept = kept & topology.from_tensors(limit)
            for weight, value, within in zip(topology.weights(), effective, limit, strict=True):
                torch.mul(value, within, out=weight)
        topology.replace(kept)

    def update(self, context: Context) -> UpdateReport | None:
        if not self.hides_weights(context):
            return None
        if self._is_to_finish(context):
            self.fix_masks(context)
        topology = context.topology
        report = topology.changes_since(topology.from_tensors(context.state[_REPORTED]))
        if self.hides_weights(context):
            context.state[_REPORTED] = topology.active.to_tensors()
        else:
            del context.state[_REPORTED]
        return report

    def fix_masks(self, context: Context) -> None:
        """Ends the rule: the most salient weights stay, in the target's number; from now on they are all there is."""
        topology = context.topology
        final = self.final_masks(context)
        effective = self._limited(context, self._effective(context))
        for weight, value, hidden in zip(topology.weights(), effective, self.hidden_weights(context), strict=True):
            # What the rule had switched off but the target has room for goes on with its hidden value.
            weight.copy_(torch.where(value != 0, value, hidden))
        topology.replace(final)
        del context.state[_HIDDEN]
        context.state.pop(_SAMPLED, None)
        context.state.pop(_LIMIT, None)
        topology.apply()
        for parameter in context.parameters.values():
            parameter.grad = None

    def final_masks(self, context: Context) -> BitSet:
        """The masks that stay."""
        topology = context.topology
        return topology.select(
            topology.full(), context.target_total, self._saliencies(context), preferred=topology.active
        )

    def _saliencies(self, context: Context) -> Scores:
        if type(self).saliency is HiddenWeights.saliency:
            return Scores(self.hidden_weights(context))
        with torch.no_grad():
            scores = [
                self.saliency(context, i, hidden).detach().float()
                for i, hidden in enumerate(self.hidden_weights(context))
            ]
        return Scores(scores, signed=True)

    def _is_to_finish(self, context: Context) -> bool:
        return (
            self.finish is not None
            and context.total_steps is not None
            and context.step >= step_at(self.finish, context.total_steps)
        )

    def _is_limited_anew(self, context: Context) -> bool:
        """Whether this is a step down the ramp."""
        if not self.has_limit or context.total_steps is None or self._is_to_finish(context):
            return False
        return self.schedule.is_update_step(context.step, context.total_steps)

    def _lower_limit(self, context: Context, kept: BitSet) -> None:
        """Goes a step down the ramp: of what the rule keeps by itself, the most salient."""
        assert self.finish is not None
        assert context.total_steps is not None
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        count = DensityRamp(end=self.finish).count(numel, context.target_total, context.step, context.total_steps)
        context.state.pop(_LIMIT, None)
        if sum(kept.counts()) > count:
            context.state[_LIMIT] = topology.select(kept, count, self._saliencies(context)).to_tensors()

    def _limited(self, context: Context, effective: Sequence[Tensor]) -> list[Tensor]:
        limit: list[Tensor] | None = context.state.get(_LIMIT)
        if limit is None:
            return list(effective)
        return [value * within for value, within in zip(effective, limit, strict=True)]

    def _effective(self, context: Context, training: bool = False) -> list[Tensor]:
        """Without the limit."""
        with torch.no_grad():
            return [
                self.effective(context, i, hidden, training).to(hidden.dtype)
                for i, hidden in enumerate(self.hidden_weights(context))
            ]

    def hooks(self, context: Context) -> Iterable[RemovableHandle]:
        if not self.differs_in_training:
            return ()

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def present(model: nn.Module, inputs: Any) -> None:
            if self.hides_weights(context) and model.training != _is_sampled(context):
                values = self._limited(context, self._effective(context, model.training))
                with torch.no_grad():
                    for weight, value in zip(context.topology.weights(), values, strict=True):
                        weight.copy_(value)
                _mark_sampled(context, model.training)

        return (context.model.register_forward_pre_hook(present),)

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        # Forward and input gradient with the effective weights; every hidden weight has a gradient.
        return TopKASTTraining(sparse, dense)


class DenselyTrained(HiddenWeights):
    """A rule whose gates are soft while it trains: forward and backward passes are dense."""

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return DenseTraining(dense)


def _is_sampled(context: Context) -> bool:
    """Whether the model holds this step's sample; anything that wrote to the weights since then replaced it."""
    mark = context.state.get(_SAMPLED)
    return mark is not None and list(mark) == [context.step, context.topology.layers[0].parameter._version]


def _mark_sampled(context: Context, sampled: bool) -> None:
    context.state[_SAMPLED] = [context.step, context.topology.layers[0].parameter._version] if sampled else None


def straight_through(value: Tensor, through: Tensor) -> Tensor:
    """``value`` in the forward pass, the gradient of ``through`` in the backward pass."""
    return through + (value - through).detach()
