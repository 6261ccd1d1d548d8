"""Pruning once, before training: masks chosen at initialisation that never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.initial import InitialMasks, MagnitudeMasks, RandomMasks
from itop.criteria.one_shot import (
    ForceMasks,
    GraspMasks,
    IsometricSnipMasks,
    IterSnipMasks,
    SnipMasks,
    SynFlowMasks,
)
from itop.methods.method import Method
from itop.methods.start import require_data
from itop.update_report import UpdateReport


@final
@dataclass(frozen=True, slots=True)
class OneShot(Method):
    """Masks by a rule before the first step; they stay.

    Args:
        label: The name in reports.
        initial: The rule.
        allocation: Where the user names none; rules that let all layers compete do not ask it.
    """

    label: str
    initial: InitialMasks
    allocation: AllocationLike = "uniform"

    @property
    def name(self) -> str:
        return self.label

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    @property
    def works_on_shards(self) -> bool:
        return self.initial.works_on_shards

    def check(self, context: Context) -> None:
        require_data(self.name, self.initial, context)

    def initialise(self, context: Context) -> None:
        context.topology.initialise(self.initial.masks(context))

    def update(self, context: Context) -> UpdateReport | None:
        return None

    def options(self) -> dict[str, Any]:
        return {"initial": self.initial}


def RandomPruning(allocation: AllocationLike = "uniform") -> OneShot:
    """Random pruning at initialisation: the same density in every layer, the baseline that knows nothing."""
    return OneShot("random", RandomMasks(), allocation)


def MagnitudePruning(across_layers: bool = False, allocation: AllocationLike = "uniform") -> OneShot:
    """Magnitude pruning at initialisation.

    Args:
        across_layers: Whether all layers compete; otherwise each keeps what the allocation says. Initial weights shrink
            with a layer's width: at high sparsity layers that compete lose a wide one altogether, and with it the signal.
    """
    return OneShot("magnitude", MagnitudeMasks(across_layers), allocation)


def SNIP(num_batches: int = 1) -> OneShot:
    """Connection sensitivity ``abs(g w)`` on training batches before the first step (Lee et al., ICLR 2019).

    Args:
        num_batches: Over which the gradient is averaged.
    """
    return OneShot("snip", SnipMasks(num_batches))


def SNIPIsometry(num_batches: int = 1, isometry_steps: int = 200, isometry_rate: float = 0.5) -> OneShot:
    """SNIP on orthogonal weights, then approximate isometry of the sparse ones (Lee et al., ICLR 2020).

    Replaces the model's initial weights.

    Args:
        num_batches: Over which the gradient is averaged.
        isometry_steps: Of gradient descent towards isometry (?).
        isometry_rate: Step size relative to the largest stable one (?).
    """
    return OneShot("snip-isometry", IsometricSnipMasks(num_batches, isometry_steps, isometry_rate))


def GraSP(num_batches: int = 1, temperature: float = 200.0) -> OneShot:
    """Keeps the largest ``w * (H g)``, to preserve the gradient flow (Wang et al., ICLR 2020).

    Args:
        num_batches: Over which the product is averaged.
        temperature: The outputs are divided by it.
    """
    return OneShot("grasp", GraspMasks(num_batches, temperature))


def SynFlow(rounds: int = 100) -> OneShot:
    """Iterative conservation of synaptic flow, without data (Tanaka et al., NeurIPS 2020).

    Args:
        rounds: n; after round k a fraction ``density ** (k / n)`` is left.
    """
    return OneShot("synflow", SynFlowMasks(rounds))


def FORCE(rounds: int = 60, num_batches: int = 1) -> OneShot:
    """Progressive skeletonization; what was removed may return (de Jorge et al., ICLR 2021).

    Args:
        rounds: T.
        num_batches: On which each round's gradient is taken.
    """
    return OneShot("force", ForceMasks(rounds, num_batches))


def IterSNIP(rounds: int = 60, num_batches: int = 1) -> OneShot:
    """SNIP in rounds on what is left (de Jorge et al., ICLR 2021).

    Args:
        rounds: T.
        num_batches: On which each round's gradient is taken.
    """
    return OneShot("iter-snip", IterSnipMasks(rounds, num_batches))
