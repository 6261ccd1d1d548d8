"""Top-KAST (Jayakumar et al., Top-KAST: top-K always sparse training, NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.analysis.training_flops import TopKASTTraining, TrainingFlops
from itop.context import Context
from itop.methods.chosen_masks import ChosenMasks
from itop.ranges import FRACTION, NOT_NEGATIVE
from itop.schedules import Every
from itop.selection import Scores

_BACKWARD = "backward sets"


@final
@dataclass(frozen=True, slots=True)
class TopKAST(ChosenMasks):
    """Forward with the D largest weights of each layer (set A), backward into the D + M largest (set B).

    Only B is updated: what lies outside stays as it is, until others have shrunk below it.

    The penalty is L2 on A and L2 / D on the rest of B (the density D of the layer), so that newcomers have to earn
    their place. The number of active weights of each layer is exact at every step.

    Args:
        update_every: Steps between two choices of the sets, of which none falls on the last step (?).
        extra_density: M: the density of B less that of A (?).
        penalty: Of L2 on A (?).
    """

    update_every: int = 100
    extra_density: float = 0.1
    penalty: float = 1e-4
    allocation: AllocationLike = "erk"
    finish: float | None = None

    def check_options(self) -> None:
        Every(self.update_every)
        FRACTION.require("extra_density", self.extra_density)
        NOT_NEGATIVE.require("penalty", self.penalty)

    @property
    def name(self) -> str:
        return "top-kast"

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def backward_counts(self, context: Context) -> list[int]:
        """Weights of each layer in set B."""
        return [
            min(layer.numel, count + round(self.extra_density * layer.numel))
            for layer, count in zip(context.topology.layers, context.target_counts, strict=True)
        ]

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        # Newcomers of the last step would be evaluated as they are, trained where no forward pass ever saw them.
        chooses = Every(self.update_every, last_step=False).is_update_step(context.step, context.total_steps)
        if masks is not None and not chooses:
            return masks
        topology = context.topology
        scores = Scores(weights)
        forward = topology.select(topology.full(), context.target_counts, scores)
        # B holds A whatever the ties.
        extra = [b - a for a, b in zip(context.target_counts, self.backward_counts(context), strict=True)]
        context.state[_BACKWARD] = (forward | topology.select(~forward, extra, scores)).to_tensors()
        return forward.to_tensors()

    def after_step(self, context: Context) -> None:
        if self.hides_weights(context):
            # Outside B nothing moves: neither momentum nor weight decay.
            hidden, sets = self.hidden_weights(context), context.state[_BACKWARD]
            for weight, before, backward in zip(context.topology.weights(), hidden, sets, strict=True):
                weight.copy_(torch.where(backward, weight, before))
        ChosenMasks.after_step(self, context)

    def gradient_masks(self, context: Context, layer: int) -> Tensor | None:
        sets: list[Tensor] = context.state[_BACKWARD]
        return sets[layer]

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context) or self.penalty == 0.0:
            return None
        total = torch.zeros((), device=context.topology.device)
        for i, (layer, forward) in enumerate(zip(context.topology.layers, self.masks(context), strict=True)):
            density = max(context.target_counts[i], 1) / layer.numel
            backward = self.gradient_masks(context, i)
            assert backward is not None  # weights are hidden, so the sets exist
            squares = layer.parameter.square()
            total = total + (squares * forward).sum() + (squares * (backward & ~forward)).sum() / density
        return self.penalty / 2 * total

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return TopKASTTraining(sparse, min(dense, sparse + self.extra_density * dense))
