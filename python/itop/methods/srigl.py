"""SRigL (Lasby et al., Dynamic sparse training with structured sparsity, ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.analysis.training_flops import RigLTraining, TrainingFlops
from itop.context import Context
from itop.criteria.drop import MagnitudeDrop, drop_counts
from itop.criteria.patterns import GroupQuota
from itop.methods.method import Method
from itop.schedules import CosineDropFraction, Every, UpdateSchedule
from itop.selection import BitSet, Scores
from itop.update_report import UpdateReport

_FAN_IN = "fan-in"


@final
@dataclass(frozen=True, slots=True)
class SRigL(Method):
    """RigL with the same number of incoming weights for every output unit, which may be ablated as a whole.

    In an update the smallest magnitudes of a layer are dropped and as many inactive weights of the largest gradients
    are candidates. A unit with fewer than ``ablation * fan-in`` salient weights (kept or candidates) is ablated; the
    others take over its connections, so fan-in rises to ``floor(count / units left)``, and each unit fills up to it with
    its largest gradients. Units never come back.

    A layer's count is the largest multiple of its units not above the allocation's.

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
        if not 0.0 <= self.ablation <= 1.0:
            raise ValueError(f"ablation must be in [0, 1], got {self.ablation!r}")
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
            max(1, count // layer.shape[0]) for layer, count in zip(topology.layers, context.target_counts, strict=True)
        ]
        sizes = [layer.numel // layer.shape[0] for layer in topology.layers]
        quota = GroupQuota(
            sizes,
            [
                torch.full((layer.shape[0], 1), fan_in, dtype=torch.int64, device=topology.device)
                for layer, fan_in in zip(topology.layers, fan_ins, strict=True)
            ],
        )
        topology.initialise(topology.select(topology.full(), quota))
        context.state[_FAN_IN] = fan_ins

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        fraction = CosineDropFraction(self.drop_fraction, 0.0, until=self.until)(context.step, context.total_steps)
        gradients = Scores(topology.gradients())
        counts = drop_counts(context, fraction)
        dropped = MagnitudeDrop().drop_exactly(context, counts)
        kept = topology.active - dropped
        salient = kept | topology.select(~topology.active, counts, gradients)
        remaining, missing = [], []
        for i, layer in enumerate(topology.layers):
            alive = topology.active.to_tensor(i).flatten(1).any(1)
            stays = self._survivors(context, i, alive, salient)
            fan_in = min(layer.numel // layer.shape[0], context.target_counts[i] // max(1, int(stays.sum())))
            fan_in = max(1, fan_in)
            context.state[_FAN_IN][i] = fan_in
            rows = kept.to_tensor(i).flatten(1) & stays.unsqueeze(1)
            remaining.append(rows.view(topology.local(i).shape))
            missing.append(((fan_in - rows.sum(1)).clamp_min(0) * stays).unsqueeze(1))
        staying = topology.from_tensors(remaining)
        sizes = [layer.numel // layer.shape[0] for layer in topology.layers]
        grown = topology.select(~staying, GroupQuota(sizes, missing), gradients)
        return topology.commit(
            topology.active - staying,
            grown,
            drop_fraction=fraction,
            zero_all_inactive=context.zero_all_inactive,
        )

    def _survivors(self, context: Context, layer: int, alive: Tensor, salient: BitSet) -> Tensor:
        """Which output units of a layer are not ablated."""
        is_last = layer == len(context.topology.layers) - 1
        if is_last or self.ablation == 0.0 or int(alive.sum()) < 2:
            return alive
        counts = salient.to_tensor(layer).flatten(1).sum(1)
        stays: Tensor = alive & (counts >= self.ablation * context.state[_FAN_IN][layer])
        # Somebody has to stay: the unit with most salient weights.
        if not bool(stays.any()):
            stays[int((counts * alive).argmax())] = True
        return stays

    def training_flops(self, sparse: float, dense: float) -> TrainingFlops:
        return RigLTraining(sparse, dense, self.update_every)

    def options(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "drop_fraction": self.drop_fraction, "ablation": self.ablation}
