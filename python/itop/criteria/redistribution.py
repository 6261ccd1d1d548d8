"""How many weights each layer grows, given what each dropped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from itop import _core
from itop.context import Context
from itop.criteria.grow import MomentumGrowth, momentum_scores
from itop.criteria.observer import Part
from itop.selection import BitSet


class Redistribution(Part):
    """Moves connections between layers; the total is kept."""

    @property
    def moves_between_layers(self) -> bool:
        """Whether layers gain and lose connections."""
        return True

    @abstractmethod
    def grow_counts(
        self, context: Context, dropped: Sequence[int], room: Sequence[int], kept: BitSet | None = None
    ) -> list[int]:
        """Weights to grow in each layer.

        Args:
            dropped: Weights each layer drops in this update.
            room: Sites each layer could grow at most; empty where connections do not move between layers.
            kept: What stays active.
        """


@final
@dataclass(frozen=True, slots=True)
class SameLayer(Redistribution):
    """Each layer grows what it dropped: every layer's density is fixed."""

    @property
    def moves_between_layers(self) -> bool:
        return False

    @property
    def works_truly_sparse(self) -> bool:
        return True

    def grow_counts(
        self, context: Context, dropped: Sequence[int], room: Sequence[int], kept: BitSet | None = None
    ) -> list[int]:
        return list(dropped)


@final
@dataclass(frozen=True, slots=True)
class MomentumRedistribution(Redistribution):
    """In proportion to the mean momentum magnitude of each layer's active weights (Dettmers & Zettlemoyer, 2019).

    The mean is that of all weights that were active before the update, those it drops included (algorithm 2). Capped at
    a layer's free sites; what spills over is shared by the others in the same proportion.
    """

    momentum: MomentumGrowth = field(default_factory=MomentumGrowth)

    @property
    def works_truly_sparse(self) -> bool:
        return True

    @property
    def needs_gradient_every_step(self) -> bool:
        return True

    def observe(self, context: Context) -> None:
        self.momentum.observe(context)

    def grow_counts(
        self, context: Context, dropped: Sequence[int], room: Sequence[int], kept: BitSet | None = None
    ) -> list[int]:
        topology = context.topology
        totals = topology.sums_of_magnitudes(momentum_scores(context), topology.active)
        means = [total / max(1, count) for total, count in zip(totals, topology.num_active, strict=True)]
        return share(sum(dropped), means, room)


@final
@dataclass(frozen=True, slots=True)
class SurvivorRedistribution(Redistribution):
    """In proportion to the weights that each layer has left (Mostafa & Wang, ICML 2019)."""

    def grow_counts(
        self, context: Context, dropped: Sequence[int], room: Sequence[int], kept: BitSet | None = None
    ) -> list[int]:
        active = context.topology.num_active
        survivors = (
            [before - gone for before, gone in zip(active, dropped, strict=True)] if kept is None else kept.counts()
        )
        return share(sum(dropped), [float(count) for count in survivors], room)


def share(total: int, weights: Sequence[float], room: Sequence[int]) -> list[int]:
    """Shares a number in proportion to weights, none above its room, the spill among the others; the sum is exact.

    Where the weighted layers cannot take all, the rest goes to the others in proportion to their room.
    """
    total = min(total, sum(room))
    shares = [0] * len(room)
    for takes in ([weight > 0.0 for weight in weights], [weight <= 0.0 for weight in weights]):
        chosen = [i for i, takes_part in enumerate(takes) if takes_part and room[i] > 0]
        amount = min(total - sum(shares), sum(room[i] for i in chosen))
        if not chosen or amount == 0:
            continue
        relative = [(weights[i] if weights[i] > 0.0 else float(room[i])) / room[i] for i in chosen]
        for i, count in zip(chosen, _core.allocate([room[i] for i in chosen], relative, amount), strict=True):
            shares[i] = count
    return shares
