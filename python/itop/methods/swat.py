"""SWAT (Raihan & Aamodt, Sparse weight activation training, NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from itop.allocation import AllocationLike
from itop.analysis.training_flops import SparseTraining, TopKASTTraining, TrainingFlops
from itop.context import Context
from itop.criteria.grow import MomentumGrowth
from itop.criteria.redistribution import MomentumRedistribution, Redistribution, SameLayer
from itop.methods.chosen_masks import ChosenMasks
from itop.ranges import POSITIVE_FRACTION, require_count
from itop.schedules import DropFraction, falling_to
from itop.selection import Scores

_COUNTS = "layer counts"


@final
@dataclass(frozen=True, slots=True)
class SWAT(ChosenMasks):
    """Dense storage; the K largest weights forward and backward, and the K largest activations for the weights' gradient.

    What autograd saves of a layer's input is its largest entries only, of each sample a share; the forward pass sees all.
    Every weight has a gradient, also those that are not active. Linear and convolution layers only.

    How dense a layer is follows from the allocation, uniform or ERK, or changes by momentum: then, every
    ``redistribute_every`` steps, each layer gives up the share P of its number, and the layers receive what was given up in
    proportion to the mean magnitude of the averaged gradient of their active weights. The average takes 4 bytes a weight
    (8 beside an optimiser of Adam's kind).

    Args:
        refresh_every: Steps between two choices of the weights; 1 is every step.
        activation_density: Share of each sample's activations kept for the backward pass (?); None: the layer's density,
            which leaves a narrow layer next to nothing to learn from.
        redistributes: Whether layers gain and lose weights by momentum.
        redistribute_every: Steps between two times (?).
        drop_fraction: P at the start, annealed by a half cosine to ``final_drop_fraction`` (?).
        final_drop_fraction: At the end of the run (?).
        momentum: Decay of the gradient average.
    """

    refresh_every: int = 1
    activation_density: float | None = 0.5
    redistributes: bool = False
    redistribute_every: int = 100
    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    momentum: float = 0.9
    allocation: AllocationLike = "erk"
    finish: float | None = None

    def check_options(self) -> None:
        require_count("refresh_every", self.refresh_every)
        if self.activation_density is not None:
            POSITIVE_FRACTION.require("activation_density", self.activation_density)
        require_count("redistribute_every", self.redistribute_every)
        self._fraction  # noqa: B018  checks itself
        MomentumGrowth(self.momentum)

    @property
    def _fraction(self) -> DropFraction:
        return falling_to(self.drop_fraction, self.final_drop_fraction)

    @property
    def _redistribution(self) -> Redistribution:
        return MomentumRedistribution(MomentumGrowth(self.momentum)) if self.redistributes else SameLayer()

    @property
    def needs_total_steps(self) -> bool:
        return self.redistributes or self.schedule.needs_total_steps

    @property
    def name(self) -> str:
        return "swat"

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def check(self, context: Context) -> None:
        ChosenMasks.check(self, context)
        for layer in context.topology.layers:
            if not isinstance(layer.module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                raise ValueError(
                    f"method 'swat' sparsifies the activations of linear and convolution layers only; exclude "
                    f"'{layer.name}', a weight of {type(layer.module).__name__}"
                )

    def layer_counts(self, context: Context) -> list[int]:
        """Active weights of each layer now."""
        counts: list[int] = context.state.get(_COUNTS, context.target_counts)
        return counts

    def before_step(self, context: Context) -> None:
        ChosenMasks.before_step(self, context)
        if self.hides_weights(context):
            self._redistribution.observe(context)

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        moves = self.redistributes and masks is not None and context.step % self.redistribute_every == 0
        if moves:
            self._redistribute(context)
        if masks is not None and context.step % self.refresh_every != 0 and not moves:
            return masks
        topology = context.topology
        return topology.select(topology.full(), self.layer_counts(context), Scores(weights)).to_tensors()

    def _redistribute(self, context: Context) -> None:
        counts = self.layer_counts(context)
        fraction = self._fraction(context.step, context.total_steps)
        given = [round(fraction * count) for count in counts]
        room = [
            layer.numel - count + less
            for layer, count, less in zip(context.topology.layers, counts, given, strict=True)
        ]
        gained = self._redistribution.grow_counts(context, given, room)
        context.state[_COUNTS] = [count - less + more for count, less, more in zip(counts, given, gained, strict=True)]

    def hooks(self, context: Context) -> Iterable[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for i, layer in enumerate(context.topology.layers):
            sparsifier = _SavedActivations(layer.parameter, self._kept_activations(context, i))
            handles.append(layer.module.register_forward_pre_hook(sparsifier.enter))
            handles.append(layer.module.register_forward_hook(sparsifier.leave, always_call=True))
        return handles

    def _kept_activations(self, context: Context, layer: int) -> Callable[[], float]:
        """The share of a layer's activations that is kept now: a function, which a copy of the model shares."""

        def share() -> float:
            if self.activation_density is not None:
                return self.activation_density
            return self.layer_counts(context)[layer] / context.topology.layers[layer].numel

        return share

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        # Forward and input gradient skip weights, the weights' gradient skips activations.
        if self.activation_density is None:
            return SparseTraining(sparse)
        return TopKASTTraining(sparse, self.activation_density * dense)


class _SavedActivations:
    """Lets autograd save only the largest entries of a layer's input."""

    def __init__(self, weight: nn.Parameter, density: Callable[[], float]) -> None:
        self._weight = weight
        self._density = density
        self._open: list[saved_tensors_hooks] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        hooks = saved_tensors_hooks(self._pack, lambda saved: saved)
        hooks.__enter__()
        self._open.append(hooks)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._open:
            self._open.pop().__exit__()

    def _pack(self, saved: Tensor) -> Tensor:
        shares_weight = saved.untyped_storage().data_ptr() == self._weight.untyped_storage().data_ptr()
        density = self._density()
        if shares_weight or not saved.is_floating_point() or density >= 1.0:
            return saved
        return largest_entries(saved, density)


def largest_entries(activations: Tensor, density: float) -> Tensor:
    """The activations with all but the largest magnitudes of each sample zeroed: of n entries ``round(density n)``."""
    samples = activations.reshape(len(activations), -1)
    keep = max(1, round(density * samples.shape[1]))
    places = samples.abs().topk(keep, dim=1).indices
    result = torch.zeros_like(samples)
    result.scatter_(1, places, samples.gather(1, places))
    return result.view(activations.shape)
