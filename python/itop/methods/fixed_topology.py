"""Methods whose topology never changes: dense and static sparse training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.initial import DenseMasks, RandomMasks
from itop.methods.method import Method


@final
@dataclass(frozen=True, slots=True)
class Dense(Method):
    """Every weight takes part; the baseline, by the same command as all others."""

    @property
    def name(self) -> str:
        return "dense"

    @property
    def is_dense(self) -> bool:
        return True

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))

    def update(self, context: Context) -> None:
        return None


@final
@dataclass(frozen=True, slots=True)
class Static(Method):
    """Random masks that stay as they are (Mocanu et al., 2016; Evci et al., ICML 2020)."""

    allocation: AllocationLike = "erk"

    @property
    def name(self) -> str:
        return "static"

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    def initialise(self, context: Context) -> None:
        context.topology.initialise(RandomMasks().masks(context))

    def update(self, context: Context) -> None:
        return None
