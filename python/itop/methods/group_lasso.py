"""Group lasso (Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.initial import DenseMasks
from itop.methods.method import Method
from itop.ranges import FRACTION, NOT_NEGATIVE
from itop.schedules import AtFractions, UpdateSchedule
from itop.selection import Scores
from itop.update_report import UpdateReport


@final
@dataclass(frozen=True, slots=True)
class GroupLasso(Method):
    """A penalty on the norms of whole groups drives them to zero; then the weakest groups go, in one pruning.

    Groups are the outgoing weights of an input unit or channel of a layer (its columns) and the incoming weights of an
    output unit (its rows). In each layer the strongest columns and the strongest rows stay, in equal shares of both, so
    that what is left is a small dense matrix; rows of the last layer, the outputs, all stay. How many follows from the
    allocation; the last groups that fit go in part, so that the count is exact.

    Args:
        penalty: On the sum of the groups' norms, each times the root of its size (?).
        prune_at: Fraction of the run (?); the rest fine-tunes without the penalty.
    """

    penalty: float = 1e-4
    prune_at: float = 0.4
    allocation: AllocationLike = "uniform"

    def __post_init__(self) -> None:
        NOT_NEGATIVE.require("penalty", self.penalty)
        FRACTION.require("prune_at", self.prune_at)

    @property
    def name(self) -> str:
        return "group-lasso"

    @property
    def schedule(self) -> UpdateSchedule:
        return AtFractions((self.prune_at,))

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    @property
    def acts_before_step(self) -> bool:
        return True

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))

    def regulariser(self, context: Context) -> Tensor | None:
        if context.topology.num_updates > 0:
            return None
        terms = []
        for layer in context.topology.layers:
            weight = layer.parameter
            for own in (0, 1):
                norms = _group_norms(weight, own)
                terms.append(norms.sum() * (weight.numel() / len(norms)) ** 0.5)
        return self.penalty * torch.stack(terms).sum()

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        last = len(topology.layers) - 1
        scores = [kept_first(weight, keeps_rows=i == last) for i, weight in enumerate(topology.weights())]
        kept = topology.select(topology.active, context.target_counts, Scores(scores))
        return topology.commit(topology.active - kept, topology.empty(), zero_all_inactive=context.zero_all_inactive)

    def options(self) -> dict[str, Any]:
        return {"penalty": self.penalty, "prune_at": self.prune_at}


def kept_first(weight: Tensor, *, keeps_rows: bool) -> Tensor:
    """What orders the weights of a layer: the share of its rows, or of its columns, that are weaker than the weight's own,
    whichever is smaller. The largest k of them are the strongest rows and columns in equal shares.

    Args:
        keeps_rows: Whether only columns compete.
    """
    squares = weight.square()
    columns = _standing(_norms(squares, 1)).view(1, -1, *[1] * (weight.dim() - 2)).expand(weight.shape)
    if keeps_rows:
        return columns.contiguous()
    rows = _standing(_norms(squares, 0)).view(-1, *[1] * (weight.dim() - 1))
    return torch.minimum(rows, columns)


def _standing(norms: Tensor) -> Tensor:
    """Of each group the share of groups that are not stronger, in (0, 1]; equal ones in the order of their place."""
    places = torch.empty_like(norms)
    order = norms.argsort(descending=True, stable=True)
    places[order] = torch.arange(len(norms), 0, -1, dtype=norms.dtype, device=norms.device)
    return places / len(norms)


def _group_norms(weight: Tensor, dimension: int) -> Tensor:
    """The norm of each slice along a dimension, differentiable at zero."""
    return _norms(weight.square(), dimension)


def _norms(squares: Tensor, dimension: int) -> Tensor:
    return (squares.transpose(0, dimension).flatten(1).sum(1) + 1e-12).sqrt()
