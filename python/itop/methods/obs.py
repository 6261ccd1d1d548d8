"""Optimal brain surgeon (Hassibi et al., Optimal brain surgeon and general network pruning, 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from itop.analysis.training_flops import SparseTraining, TrainingFlops
from itop.context import Context
from itop.criteria.initial import DenseMasks
from itop.methods.method import Method
from itop.ranges import POSITIVE, require_count
from itop.schedules import DensityRamp, Every, UpdateSchedule
from itop.selection import Scores
from itop.update_report import UpdateReport

_INVERSES = "inverse curvature"


@final
@dataclass(frozen=True, slots=True)
class OBS(Method):
    """Prunes the smallest ``w^2 / (2 [H^-1]_ii)`` of all layers along a cubic ramp, and moves the others to compensate.

    H is the empirical Fisher matrix within blocks of consecutive weights, zero between them; its inverse is built by
    Hassibi's recursion from the gradients since the last pruning: ``H^-1 -= H^-1 g g^T H^-1 / (n + g^T H^-1 g)``. With a
    block as large as a layer it is the layer's whole matrix. The weights that stay receive
    ``-H^-1[:, q] (H^-1[q, q])^-1 w_q`` for the set q that goes from their block.

    Takes ``block`` numbers a weight of memory.

    Args:
        update_every: Steps between prunings; the number n of gradients (?).
        start, end: Of the ramp, as fractions of the run (?).
        block: Weights that H couples, at least 1.
        damping: H starts as this multiple of the identity, above 0 (?).
    """

    update_every: int = 100
    start: float = 0.0
    end: float = 0.75
    block: int = 16
    damping: float = 1e-4

    def __post_init__(self) -> None:
        Every(self.update_every)
        DensityRamp(1.0, self.start, self.end)
        require_count("block", self.block)
        POSITIVE.require("damping", self.damping)

    @property
    def name(self) -> str:
        return "obs"

    @property
    def _ramp(self) -> DensityRamp:
        return DensityRamp(1.0, self.start, self.end)

    @property
    def schedule(self) -> UpdateSchedule:
        return self._ramp.updates(Every(self.update_every, until=self.end))

    @property
    def acts_before_step(self) -> bool:
        return True

    @property
    def default_allocation(self) -> str:
        return "uniform"

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))
        context.state[_INVERSES] = self._fresh(context)

    def _fresh(self, context: Context) -> list[Tensor]:
        inverses = []
        for weight in context.topology.weights():
            size = min(self.block, weight.numel())
            inverses.append(torch.empty(-(-weight.numel() // size), size, size, device=weight.device))
        self._restart(inverses)
        return inverses

    def _restart(self, inverses: Sequence[Tensor]) -> None:
        """Back to the inverse of ``damping`` times the identity."""
        for inverse in inverses:
            inverse.zero_().diagonal(dim1=1, dim2=2).fill_(1.0 / self.damping)

    def before_step(self, context: Context) -> None:
        if sum(context.topology.num_active) <= context.target_total:
            context.state.pop(_INVERSES, None)
            return
        masks = context.topology.active.to_tensors()
        for inverse, gradient, mask in zip(context.state[_INVERSES], context.gradients(), masks, strict=True):
            g = _blocks(gradient.float() * mask, inverse.shape[1]).unsqueeze(2)
            product = inverse @ g
            scaled = product / (self.update_every + g.transpose(1, 2) @ product)
            inverse.baddbmm_(scaled, product.transpose(1, 2), alpha=-1.0)

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        goal = self._ramp.count(numel, context.target_total, context.step, context.total_steps or 1)
        surplus = max(0, sum(topology.num_active) - goal)
        if _INVERSES not in context.state:
            context.state[_INVERSES] = self._fresh(context)
        inverses: list[Tensor] = context.state[_INVERSES]
        weights = topology.weights()
        scores = []
        for weight, inverse in zip(weights, inverses, strict=True):
            diagonal = inverse.diagonal(dim1=1, dim2=2).reshape(-1)[: weight.numel()].view(weight.shape)
            scores.append(weight.float().square() / (2.0 * diagonal.clamp_min(1e-12)))
        dropped = topology.select(topology.active, surplus, Scores(scores), largest=False)
        active = topology.active.to_tensors()
        for weight, inverse, gone, mask in zip(weights, inverses, dropped.to_tensors(), active, strict=True):
            weight.add_(compensation(weight, inverse, gone) * mask)
        report = topology.commit(dropped, topology.empty(), zero_all_inactive=context.zero_all_inactive)
        self._restart(inverses)
        return report

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return SparseTraining(sparse)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "block": self.block, "damping": self.damping}


def compensation(weight: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """What pruning the weights of a set adds to every weight of their block; takes those of the set to zero.

    Args:
        weight: In the layer's shape.
        inverse: [blocks, size, size], the inverse curvature within each block of consecutive weights.
        gone: The set, bool, in the layer's shape.
    """
    size = inverse.shape[1]
    chosen = _blocks(gone.float(), size)
    values = _blocks(weight.float(), size) * chosen
    # Of most blocks one weight goes, if any: its equation is a division.
    multipliers = values / inverse.diagonal(dim1=1, dim2=2)
    several = (chosen.sum(1) > 1).nonzero().squeeze(1)
    # The system of the chosen, with an identity in the place of all others.
    among = chosen[several]
    system = inverse[several] * (among.unsqueeze(2) * among.unsqueeze(1)) + torch.diag_embed(1.0 - among)
    multipliers[several] = torch.linalg.solve(system, values[several].unsqueeze(2)).squeeze(2)
    flat: Tensor = -(inverse @ multipliers.unsqueeze(2)).reshape(-1)
    return flat[: weight.numel()].view(weight.shape).to(weight.dtype)


def _blocks(tensor: Tensor, size: int) -> Tensor:
    flat = tensor.reshape(-1)
    return F.pad(flat, (0, -flat.numel() % size)).view(-1, size)
