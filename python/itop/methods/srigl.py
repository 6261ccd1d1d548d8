"""SRigL (Lasby et al., Dynamic sparse training with structured sparsity, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.analysis.training_flops import RigLTraining, TrainingFlops
from itop.context import Context
from itop.criteria.drop import MagnitudeDrop, drop_counts
from itop.criteria.group_quota import GroupQuota, row_counts
from itop.layers import Layer
from itop.methods.method import Method
from itop.methods.start import warn_where_inexact
from itop.ranges import FRACTION
from itop.schedules import CosineDropFraction, Every, UpdateSchedule
from itop.selection import BitSet, Scores
from itop.topology import Topology
from itop.update_report import UpdateReport

_FAN_IN = "fan-in"


@final
@dataclass(frozen=True, slots=True)
class SRigL(Method):
    """RigL with the same number of incoming weights for every output unit, which may be ablated as a whole.

    In an update the smallest magnitudes of a layer are dropped and as many inactive weights of the largest gradients
    are candidates. A unit with fewer than ``ablation * fan-in`` salient weights (kept or candidates) is ablated; the
    others take over its connections, so fan-in rises to ``count / units left``, and each unit fills up to it with its
    largest gradients. Units never come back.

    Fan-in is rounded to the nearest whole number, at least 1: a layer's count is the multiple of its units nearest to the
    allocation's.

    Args:
        update_every: dT in steps.
        drop_fraction: Annealed to 0 by a half cosine at ``until`` of the run.
        ablation: gamma_sal, in [0, 1]; 0 never ablates. Layers with one unit and the last layer never do.
    """

    update_every: int = 100
    drop_fraction: float = 0.3
    until: float = 0.75
    ablation: float = 0.3
    allocation: AllocationLike = "erk"

    def __post_init__(self) -> None:
        FRACTION.require("ablation", self.ablation)
        Every(self.update_every, until=self.until)
        CosineDropFraction(self.drop_fraction, 0.0, until=self.until)

    @property
    def name(self) -> str:
        return "srigl"

    @property
    def schedule(self) -> UpdateSchedule:
        return Every(self.update_every, until=self.until)

    @property
    def needs_total_steps(self) -> bool:
        return True

    @property
    def needs_gradient(self) -> bool:
        return True

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def initialise(self, context: Context) -> None:
        topology = context.topology
        fan_ins = [
            _fan_in(layer, count, layer.shape[0])
            for layer, count in zip(topology.layers, context.target_counts, strict=True)
        ]
        units = [
            torch.full((layer.shape[0], 1), fan_in) for layer, fan_in in zip(topology.layers, fan_ins, strict=True)
        ]
        quota = _by_unit(topology, units)
        topology.initialise(topology.select(topology.full(), quota))
        warn_where_inexact(context, self.name)
        context.state[_FAN_IN] = fan_ins

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        fraction = CosineDropFraction(self.drop_fraction, 0.0, until=self.until)(context.step, context.total_steps)
        gradients = Scores(topology.gradients())
        counts = drop_counts(context, fraction)
        dropped = MagnitudeDrop().drop_exactly(context, counts)
        kept = topology.active - dropped
        salient = kept | topology.select(~topology.active, counts, gradients)
        ablated = topology.empty()
        targets = []
        present, promising = row_counts(topology, topology.active), row_counts(topology, salient)
        for i, layer in enumerate(topology.layers):
            alive = present[i] > 0
            stays = self._survivors(context, i, alive, promising[i])
            fan_in = _fan_in(layer, context.target_counts[i], int(stays.sum()))
            context.state[_FAN_IN][i] = fan_in
            targets.append(stays.unsqueeze(1) * fan_in)
            if not torch.equal(stays, alive):
                gone = (alive & ~stays).view(-1, *[1] * (len(layer.shape) - 1)).expand(layer.shape)
                ablated.native.pack(i, topology.in_storage_order(i, gone), topology.stream)
        staying = kept - ablated
        grown = topology.select(~staying, _by_unit(topology, targets, staying), gradients)
        return topology.commit(
            topology.active - staying,
            grown,
            drop_fraction=fraction,
            zero_all_inactive=context.zero_all_inactive,
        )

    def _survivors(self, context: Context, layer: int, alive: Tensor, counts: Tensor) -> Tensor:
        """Which output units of a layer are not ablated, given how many salient weights each has."""
        is_last = layer == len(context.topology.layers) - 1
        if is_last or self.ablation == 0.0 or int(alive.sum()) < 2:
            return alive
        stays: Tensor = alive & (counts >= self.ablation * context.state[_FAN_IN][layer])
        # Somebody has to stay: the unit with most salient weights.
        if not bool(stays.any()):
            stays[int((counts * alive).argmax())] = True
        return stays

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return RigLTraining(sparse, dense, self.update_every)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "drop_fraction": self.drop_fraction, "ablation": self.ablation}


def _fan_in(layer: Layer, count: int, units: int) -> int:
    """Incoming weights of each of so many units, which share a layer's count."""
    return max(1, min(layer.numel // layer.shape[0], round(count / max(1, units))))


def _by_unit(topology: Topology, targets: Sequence[Tensor], present: BitSet | None = None) -> GroupQuota:
    """So many weights into each output unit, of which some are there already; one column of numbers a layer."""
    sizes = [layer.numel // layer.shape[0] for layer in topology.layers]
    on_device = [target.to(device=topology.device, dtype=torch.int32) for target in targets]
    return GroupQuota(sizes, on_device, present)
