"""Optimal brain surgeon (Hassibi et al., Optimal brain surgeon and general network pruning, 1993)."""

from __future__ import annotations

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
_DIAGONALS = "its diagonal"
_AT_START = "is the start's"
"""Whether the inverse is that of ``damping`` times the identity, which nobody has written down."""
_SMALLEST = 1e-12
"""What is left of a diagonal entry that rounding would take below zero."""


@final
@dataclass(frozen=True, slots=True)
class OBS(Method):
    """Prunes the smallest ``w^2 / (2 [H^-1]_ii)`` of all layers along a cubic ramp, and moves the others to compensate.

    H is the empirical Fisher matrix within blocks of consecutive weights, zero between them; its inverse is built by
    Hassibi's recursion from the gradients since the last pruning: ``H^-1 -= H^-1 g g^T H^-1 / (n + g^T H^-1 g)``. With a
    block as large as a layer it is the layer's whole matrix. The weights that stay receive
    ``-H^-1[:, q] (H^-1[q, q])^-1 w_q`` for the set q that goes from their block.

    Takes ``block`` numbers a weight of memory, which a step reads and writes; a pruning reads a row of them for each weight
    that goes.

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
        self._make_state_if_none(context)

    def _make_state_if_none(self, context: Context) -> None:
        if _AT_START in context.state:
            return
        blocks = []
        for weight in context.topology.weights():
            size = min(self.block, weight.numel())
            blocks.append((-(-weight.numel() // size), size))
        device = context.topology.device
        context.state[_INVERSES] = [torch.empty(count, size, size, device=device) for count, size in blocks]
        context.state[_DIAGONALS] = [torch.empty(count, size, device=device) for count, size in blocks]
        context.state[_AT_START] = True

    def before_step(self, context: Context) -> None:
        if sum(context.topology.num_active) <= context.target_total:
            for name in (_INVERSES, _DIAGONALS, _AT_START):
                context.state.pop(name, None)
            return
        self._make_state_if_none(context)
        masks = context.topology.active.to_tensors()
        rows = zip(context.state[_INVERSES], context.state[_DIAGONALS], context.gradients(), masks, strict=True)
        for inverse, diagonal, gradient, mask in rows:
            g = _blocks(gradient.float() * mask, inverse.shape[1]).unsqueeze(2)
            product = g / self.damping if context.state[_AT_START] else inverse @ g
            scaled = product / (self.update_every + g.transpose(1, 2) @ product)
            if context.state[_AT_START]:
                inverse.zero_().diagonal(dim1=1, dim2=2).fill_(1.0 / self.damping)
                diagonal.fill_(1.0 / self.damping)
            inverse.baddbmm_(scaled, product.transpose(1, 2), alpha=-1.0)
            diagonal.sub_((scaled * product).squeeze(2)).clamp_min_(_SMALLEST)
        context.state[_AT_START] = False

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        goal = self._ramp.count(numel, context.target_total, context.step, context.total_steps or 1)
        surplus = max(0, sum(topology.num_active) - goal)
        self._make_state_if_none(context)
        weights = topology.weights()
        scores = [weight.float().square() for weight in weights]
        if not context.state[_AT_START]:
            for score, diagonal in zip(scores, context.state[_DIAGONALS], strict=True):
                score.div_(diagonal.view(-1)[: score.numel()].view(score.shape))  # without the half, which orders alike
        dropped = topology.select(topology.active, surplus, Scores(scores), largest=False)
        if not context.state[_AT_START]:  # a diagonal matrix moves no other weight
            active = topology.active.to_tensors()
            for weight, inverse, gone, mask in zip(
                weights, context.state[_INVERSES], dropped.to_tensors(), active, strict=True
            ):
                compensate(weight, inverse, gone, mask)
        report = topology.commit(dropped, topology.empty(), zero_all_inactive=context.zero_all_inactive)
        context.state[_AT_START] = True
        return report

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return SparseTraining(sparse)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "block": self.block, "damping": self.damping}


def compensate(weight: Tensor, inverse: Tensor, gone: Tensor, active: Tensor) -> None:
    """Moves the active weights of a block by what pruning some of them asks of all; takes those to zero. In place.

    Args:
        weight: In the layer's shape.
        inverse: [blocks, size, size], the inverse curvature within each block of consecutive weights.
        gone: The weights that are pruned, bool, in the layer's shape.
        active: Those that are not zero now, likewise.
    """
    size = inverse.shape[1]
    sites = gone.reshape(-1).nonzero().squeeze(1)
    touched, counts = torch.unique_consecutive(sites.div(size, rounding_mode="floor"), return_counts=True)
    if touched.numel() == 0:
        return
    values = _blocks(weight.float(), size)
    change = torch.empty(touched.numel(), size, device=weight.device)
    starts = counts.cumsum(0) - counts
    for together in counts.unique().tolist():
        with_as_many = (counts == together).nonzero().squeeze(1)
        chosen = sites[starts[with_as_many].unsqueeze(1) + torch.arange(together, device=weight.device)]
        rows = inverse.view(-1, size)[chosen]  # the matrix is symmetric
        system = rows.gather(2, (chosen % size).unsqueeze(1).expand(-1, together, -1))
        asked = values.view(-1)[chosen].unsqueeze(2)
        # Of most blocks one weight goes: its equation is a division.
        multipliers = asked / system if together == 1 else torch.linalg.solve(system, asked)
        change[with_as_many] = (multipliers.transpose(1, 2) @ rows).squeeze(1)
    change *= _blocks(active, size)[touched]
    if values.data_ptr() == weight.data_ptr():
        values[touched] -= change
    else:  # another type or order, or a last block that is not full
        all_changes = torch.zeros_like(values)
        all_changes[touched] = change
        weight.sub_(all_changes.view(-1)[: weight.numel()].view(weight.shape))


def _blocks(tensor: Tensor, size: int) -> Tensor:
    """[blocks, size], the last filled up with zeros; the tensor's own memory where that lies so."""
    flat = tensor.reshape(-1)
    missing = -flat.numel() % size
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, size)
