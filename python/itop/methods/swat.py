"""SWAT (Raihan & Aamodt, Sparse weight activation training, NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from itop.allocation import AllocationLike
from itop.analysis.training_flops import SparseTraining, TopKASTTraining, TrainingFlops
from itop.context import Context
from itop.methods.hidden_weights import ChosenMasks
from itop.selection import Scores


@final
@dataclass(frozen=True, slots=True)
class SWAT(ChosenMasks):
    """Dense storage; the K largest weights forward and backward, and the K largest activations for the weights' gradient.

    What autograd saves of a layer's input is its largest entries only, of each sample a share; the forward pass sees all.
    Every weight has a gradient, also those that are not active. Linear and convolution layers only.

    Args:
        refresh_every: Steps between two choices of the weights; 1 is every step.
        activation_density: Share of each sample's activations kept for the backward pass (?); None: the layer's density,
            which leaves a narrow layer next to nothing to learn from.
    """

    refresh_every: int = 1
    activation_density: float | None = 0.5
    allocation: AllocationLike = "erk"
    finish: float | None = None

    def check_options(self) -> None:
        if isinstance(self.refresh_every, bool) or not isinstance(self.refresh_every, int) or self.refresh_every < 1:
            raise ValueError(f"refresh_every must be a whole number of steps, at least 1, got {self.refresh_every!r}")
        if self.activation_density is not None and not 0.0 < self.activation_density <= 1.0:
            raise ValueError(f"activation_density must be in (0, 1], got {self.activation_density!r}")

    @property
    def name(self) -> str:
        return "swat"

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def check(self, context: Context) -> None:
        for layer in context.topology.layers:
            if not isinstance(layer.module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                raise ValueError(
                    f"method 'swat' sparsifies the activations of linear and convolution layers only; exclude "
                    f"'{layer.name}', a weight of {type(layer.module).__name__}"
                )

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        if masks is not None and context.step % self.refresh_every != 0:
            return masks
        topology = context.topology
        return topology.select(topology.full(), context.target_counts, Scores(weights)).to_tensors()

    def hooks(self, context: Context) -> Iterable[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for layer, count in zip(context.topology.layers, context.target_counts, strict=True):
            density = self.activation_density if self.activation_density is not None else count / layer.numel
            sparsifier = _SavedActivations(layer.parameter, density)
            handles.append(layer.module.register_forward_pre_hook(sparsifier.enter))
            handles.append(layer.module.register_forward_hook(sparsifier.leave, always_call=True))
        return handles

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        # Forward and input gradient skip weights, the weights' gradient skips activations.
        if self.activation_density is None:
            return SparseTraining(sparse)
        return TopKASTTraining(sparse, self.activation_density * dense)


class _SavedActivations:
    """Lets autograd save only the largest entries of a layer's input."""

    def __init__(self, weight: nn.Parameter, density: float) -> None:
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
        if shares_weight or not saved.is_floating_point() or self._density >= 1.0:
            return saved
        return largest_entries(saved, self._density)


def largest_entries(activations: Tensor, density: float) -> Tensor:
    """The activations with all but the largest magnitudes of each sample zeroed: of n entries ``round(density n)``."""
    samples = activations.reshape(len(activations), -1)
    keep = max(1, round(density * samples.shape[1]))
    places = samples.abs().topk(keep, dim=1).indices
    result = torch.zeros_like(samples)
    result.scatter_(1, places, samples.gather(1, places))
    return result.view(activations.shape)
